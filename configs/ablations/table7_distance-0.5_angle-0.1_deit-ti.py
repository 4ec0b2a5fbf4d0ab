# Weights 1, 1, 0.5, 0.1, DeiT-Ti. Teacher: MAE ViT-B/16, 83.50 top-1. 300
# epochs, 8 GPUs x 128 images.
# Top-1 on ImageNet-1k: 76.4 (paper), not run.
_base_ = '../serkd_deit-ti.py'

model = dict(
    distiller=dict(
        distill_losses=dict(
            loss_distance=dict(loss_weight=0.5),
            loss_angle=dict(loss_weight=0.1),
        )
    )
)
