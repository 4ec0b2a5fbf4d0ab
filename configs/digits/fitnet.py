# KD and FitNet's feature loss on 5 labels per class of the digits.
# Top-1: table of tools/ablate.py, see ../README.md.
_base_ = '../quickstart/serkd.py'

model = dict(
    distiller=dict(
        connectors=dict(
            _delete_=True,
            student_tokens=dict(type='VisualTokens', num_prefix_tokens=2),
            teacher_tokens=dict(type='VisualTokens', num_prefix_tokens=1),
        ),
        distill_losses=dict(
            _delete_=True,
            loss_kd=_base_.model.distiller.distill_losses.loss_kd,
            loss_feature=_base_.model.distiller.distill_losses.loss_feature,
        ),
        loss_forward_mappings=dict(
            _delete_=True,
            loss_kd=_base_.model.distiller.loss_forward_mappings.loss_kd,
            loss_feature=(
                _base_.model.distiller.loss_forward_mappings.loss_feature
            ),
        ),
    )
)
