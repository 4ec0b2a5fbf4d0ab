# MMPretrain's ResNet augmentation, 32 images per GPU. A broken image ends the
# run with its name.
_base_ = 'mmpretrain::_base_/datasets/imagenet_bs32.py'

load_image = dict(type='LoadCheckedImage')
train_pipeline = [load_image, *_base_.train_pipeline[1:]]
test_pipeline = [load_image, *_base_.test_pipeline[1:]]

train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
