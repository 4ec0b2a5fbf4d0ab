# DeiT's hard distillation, DeiT-Ti: the distillation head learns the teacher's
# decision. Weights as in DeiT. Teacher: MAE ViT-B/16, 83.50 top-1. 300 epochs,
# 8 GPUs x 128 images.
# Top-1 on ImageNet-1k: no number in the paper for this teacher, not run.
_base_ = './kd_deit-ti.py'

model = dict(
    architecture=dict(head=dict(loss=dict(loss_weight=0.5))),
    distiller=dict(
        distill_losses=dict(
            loss_kd=dict(
                _delete_=True, type='HardDistillLoss', loss_weight=0.5
            )
        )
    ),
)
