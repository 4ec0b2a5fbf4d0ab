# CNN -> ViT on CIFAR-10, all 50,000 labelled images. 100 epochs, 1 GPU x 128
# images. Bring the teacher's checkpoint: resnet56.py trains one.
# Top-1: not run.
_base_ = [
    '../_base_/models/serkd_resnet56_vit-nano.py',
    '../_base_/datasets/cifar10_bs128.py',
    '../_base_/schedules/adamw_bs128_100e.py',
    '../_base_/default_runtime.py',
]
