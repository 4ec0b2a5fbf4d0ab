# KD, feature and angle losses, DeiT-Ti. Teacher: MAE ViT-B/16, 83.50 top-1.
# 300 epochs, 8 GPUs x 128 images.
# Top-1 on ImageNet-1k: no number in the paper's text, not run.
_base_ = '../serkd_deit-ti.py'

model = dict(
    distiller=dict(
        distill_losses=dict(
            _delete_=True,
            loss_kd=_base_.model.distiller.distill_losses.loss_kd,
            loss_feature=_base_.model.distiller.distill_losses.loss_feature,
            loss_angle=_base_.model.distiller.distill_losses.loss_angle,
        ),
        loss_forward_mappings=dict(
            _delete_=True,
            loss_kd=_base_.model.distiller.loss_forward_mappings.loss_kd,
            loss_feature=(
                _base_.model.distiller.loss_forward_mappings.loss_feature
            ),
            loss_angle=_base_.model.distiller.loss_forward_mappings.loss_angle,
        ),
    )
)
