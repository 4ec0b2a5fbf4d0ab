# DeiT's augmentation at 224 px, 128 images per GPU (1024 on 8 GPUs).
_base_ = 'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py'

train_dataloader = dict(
    batch_size=128,
    persistent_workers=True,
    pin_memory=True,
    collate_fn=dict(type='default_collate'),
)
val_dataloader = dict(
    batch_size=128,
    persistent_workers=True,
    pin_memory=True,
    collate_fn=dict(type='default_collate'),
)
test_dataloader = val_dataloader
