# KD of the logits, DeiT-Ti. Teacher: MAE ViT-B/16, 83.50 top-1. 300 epochs, 8
# GPUs x 128 images.
# Top-1 on ImageNet-1k: 74.1 (paper, Table VII), not run.
_base_ = [
    '../_base_/models/kd_mae-base_deit-small.py',
    '../_base_/datasets/imagenet_bs128_224.py',
    '../_base_/schedules/deit_bs1024.py',
    '../_base_/default_runtime.py',
]

model = dict(
    architecture=dict(
        backbone=dict(arch='deit-tiny'), head=dict(in_channels=192)
    )
)
