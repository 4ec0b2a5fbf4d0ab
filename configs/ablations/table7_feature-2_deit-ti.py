# Weights 1, 2, 0, 0, DeiT-Ti. Teacher: MAE ViT-B/16, 83.50 top-1. 300 epochs,
# 8 GPUs x 128 images.
# Top-1 on ImageNet-1k: 74.2 (paper), not run.
_base_ = '../methods/fitnet_deit-ti.py'

model = dict(
    distiller=dict(distill_losses=dict(loss_feature=dict(loss_weight=2.0)))
)
