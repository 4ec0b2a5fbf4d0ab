# Teacher of the CIFAR-10 configs: ResNet-56 on all 50,000 labelled images with
# MMPretrain's CIFAR-10 schedule. Mean and std are those that the students'
# configs name for the teacher. 200 epochs, 1 GPU x 128 images. Top-1: not run.
_base_ = [
    '../_base_/datasets/cifar10_bs128.py',
    'mmpretrain::_base_/schedules/cifar10_bs128.py',
    '../_base_/default_runtime.py',
]

model = dict(
    type='ImageClassifier',
    backbone=dict(type='ThinResNetCIFAR', depth=56),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=64),
)

data_preprocessor = dict(
    mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]
)

randomness = dict(seed=0)
