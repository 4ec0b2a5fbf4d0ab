# Weights 2, 0, 0, 0, DeiT-Ti. Teacher: MAE ViT-B/16, 83.50 top-1. 300 epochs,
# 8 GPUs x 128 images.
# Top-1 on ImageNet-1k: 74.0 (paper), not run.
_base_ = '../methods/kd_deit-ti.py'

model = dict(
    distiller=dict(distill_losses=dict(loss_kd=dict(loss_weight=2.0)))
)
