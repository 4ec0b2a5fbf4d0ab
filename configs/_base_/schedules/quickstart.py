_base_ = './adamw_bs128_100e.py'

train_cfg = dict(max_epochs=40, val_interval=2)

auto_scale_lr = dict(base_batch_size=25)
