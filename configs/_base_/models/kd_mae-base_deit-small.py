# Distillation of the logits alone: the labels train the class head, the
# teacher the distillation head. Weights of Eq. 12, tau 1.
_base_ = './serkd_mae-base_deit-small.py'

model = dict(
    distiller=dict(
        _delete_=True,
        type='SeRKDDistiller',
        student_recorders=dict(
            logits=dict(type='ModuleOutputs', source='head.layers.head_dist')
        ),
        teacher_recorders=dict(
            logits=dict(type='ModuleOutputs', source='head.fc')
        ),
        distill_losses=dict(
            loss_kd=dict(type='KLDivergence', tau=1.0, loss_weight=1.0)
        ),
        loss_forward_mappings=dict(
            loss_kd=dict(
                preds_S=dict(recorder='logits', from_student=True),
                preds_T=dict(recorder='logits', from_student=False),
            )
        ),
    )
)
