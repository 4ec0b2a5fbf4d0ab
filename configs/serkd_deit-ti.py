# SeRKD-Ti. Teacher: MAE ViT-B/16, 83.50 top-1. 300 epochs, 8 GPUs x 128
# images. Top-1 on ImageNet-1k: 76.8 (paper), not run here.
_base_ = './serkd_deit-s.py'

model = dict(
    architecture=dict(
        backbone=dict(arch='deit-tiny'), head=dict(in_channels=192)
    ),
    distiller=dict(
        distill_losses=dict(loss_feature=dict(student_channels=192))
    ),
)
