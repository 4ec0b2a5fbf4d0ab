# KD and FitNet's feature loss, DeiT-Ti. Teacher: MAE ViT-B/16, 83.50 top-1.
# 300 epochs, 8 GPUs x 128 images.
# Top-1 on ImageNet-1k: 74.2 (paper, Tables VI and VII), not run.
_base_ = [
    '../_base_/models/fitnet_mae-base_deit-small.py',
    '../_base_/datasets/imagenet_bs128_224.py',
    '../_base_/schedules/deit_bs1024.py',
    '../_base_/default_runtime.py',
]

model = dict(
    architecture=dict(
        backbone=dict(arch='deit-tiny'), head=dict(in_channels=192)
    ),
    distiller=dict(
        distill_losses=dict(loss_feature=dict(student_channels=192))
    ),
)
