# SeRKD, average pooling. Teacher: ResNet-101, 77.97 top-1. Student:
# ResNet-18. 100 epochs, 8 GPUs x 32 images.
# Top-1 on ImageNet-1k: 72.22 (paper), not run.
_base_ = [
    '../_base_/models/serkd_resnet101_resnet18.py',
    '../_base_/datasets/imagenet_bs32.py',
    'mmpretrain::_base_/schedules/imagenet_bs256.py',
    '../_base_/default_runtime.py',
]
