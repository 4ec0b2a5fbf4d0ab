# DeiT's augmentation at 224 px, 128 images per GPU (1024 on 8 GPUs). A broken
# image ends the run with its name; see SkipBrokenImages for another choice.
_base_ = 'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py'

load_image = dict(type='LoadCheckedImage')
train_pipeline = [load_image, *_base_.train_pipeline[1:]]
test_pipeline = [load_image, *_base_.test_pipeline[1:]]

train_dataloader = dict(
    batch_size=128,
    dataset=dict(pipeline=train_pipeline),
    persistent_workers=True,
    pin_memory=True,
    collate_fn=dict(type='default_collate'),
)
val_dataloader = dict(
    batch_size=128,
    dataset=dict(pipeline=test_pipeline),
    persistent_workers=True,
    pin_memory=True,
    collate_fn=dict(type='default_collate'),
)
test_dataloader = val_dataloader
