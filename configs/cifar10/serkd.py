# SeRKD. ResNet-56 to a ViT of 6 layers, CIFAR-10, 5,000 labelled images. 100
# epochs, 1 GPU x 128 images. Top-1: 72.98 ± 0.69 (three seeds, bfloat16 on a
# CPU); on a GPU not run.
_base_ = [
    '../_base_/models/serkd_resnet56_vit-nano.py',
    '../_base_/datasets/cifar10_5k_bs128.py',
    '../_base_/schedules/adamw_bs128_100e.py',
    '../_base_/default_runtime.py',
]
