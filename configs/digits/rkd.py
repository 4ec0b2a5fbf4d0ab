# KD and RKD between the images of a batch, on 5 labels per class of the
# digits. Our choice: weights and unit length as in MMRazor's RKD config.
# Top-1: table of tools/ablate.py, see ../README.md.
_base_ = '../quickstart/serkd.py'

model = dict(
    distiller=dict(
        student_recorders=dict(
            embedding=dict(type='ModuleInputs', source='head.layers.head_dist')
        ),
        teacher_recorders=dict(
            embedding=dict(type='ModuleInputs', source='head.layers.head')
        ),
        connectors=dict(_delete_=True),
        distill_losses=dict(
            _delete_=True,
            loss_kd=_base_.model.distiller.distill_losses.loss_kd,
            loss_distance=dict(type='InstanceDistanceLoss', loss_weight=25.0),
            loss_angle=dict(type='InstanceAngleLoss', loss_weight=50.0),
        ),
        loss_forward_mappings=dict(
            _delete_=True,
            loss_kd=_base_.model.distiller.loss_forward_mappings.loss_kd,
            loss_distance=dict(
                preds_S=dict(
                    recorder='embedding', from_student=True, data_idx=0
                ),
                preds_T=dict(
                    recorder='embedding', from_student=False, data_idx=0
                ),
            ),
            loss_angle=dict(
                preds_S=dict(
                    recorder='embedding', from_student=True, data_idx=0
                ),
                preds_T=dict(
                    recorder='embedding', from_student=False, data_idx=0
                ),
            ),
        ),
    )
)
