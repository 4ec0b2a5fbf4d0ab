# KD and FitNet's feature loss, DeiT-S. Teacher: MAE ViT-B/16, 83.50 top-1. 300
# epochs, 8 GPUs x 128 images.
# Top-1 on ImageNet-1k: 81.3 (paper, Table VII), not run.
_base_ = [
    '../_base_/models/fitnet_mae-base_deit-small.py',
    '../_base_/datasets/imagenet_bs128_224.py',
    '../_base_/schedules/deit_bs1024.py',
    '../_base_/default_runtime.py',
]
