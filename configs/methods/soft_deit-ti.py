# DeiT's soft distillation, DeiT-Ti: tau 3, weights 0.9 for the labels and 0.1
# for the teacher as in DeiT. Teacher: MAE ViT-B/16, 83.50 top-1. 300 epochs, 8
# GPUs x 128 images.
# Top-1 on ImageNet-1k: no number in the paper, not run.
_base_ = './kd_deit-ti.py'

model = dict(
    architecture=dict(head=dict(loss=dict(loss_weight=0.9))),
    distiller=dict(
        distill_losses=dict(loss_kd=dict(tau=3.0, loss_weight=0.1))
    ),
)
