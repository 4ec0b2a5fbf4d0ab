_base_ = 'mmpretrain::_base_/datasets/cifar10_bs16.py'

train_dataloader = dict(
    batch_size=128,
    persistent_workers=True,
    collate_fn=dict(type='default_collate'),
)
val_dataloader = dict(
    batch_size=500,
    persistent_workers=True,
    collate_fn=dict(type='default_collate'),
)
test_dataloader = val_dataloader
