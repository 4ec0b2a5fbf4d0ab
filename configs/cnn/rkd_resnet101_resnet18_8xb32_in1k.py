# RKD: relations between the images of a batch, of pooled features, without
# KD; weights of MMRazor's RKD config. Teacher: ResNet-101, 77.97 top-1.
# Student: ResNet-18. 100 epochs, 8 GPUs x 32 images.
# Top-1 on ImageNet-1k: 71.82 (paper), not run.
_base_ = './kd_resnet101_resnet18_8xb32_in1k.py'

model = dict(
    distiller=dict(
        _delete_=True,
        type='SeRKDDistiller',
        student_recorders=dict(
            pooled=dict(type='ModuleOutputs', source='neck.gap')
        ),
        teacher_recorders=dict(
            pooled=dict(type='ModuleOutputs', source='neck.gap')
        ),
        distill_losses=dict(
            loss_distance=dict(type='InstanceDistanceLoss', loss_weight=25.0),
            loss_angle=dict(type='InstanceAngleLoss', loss_weight=50.0),
        ),
        loss_forward_mappings=dict(
            loss_distance=dict(
                preds_S=dict(recorder='pooled', from_student=True),
                preds_T=dict(recorder='pooled', from_student=False),
            ),
            loss_angle=dict(
                preds_S=dict(recorder='pooled', from_student=True),
                preds_T=dict(recorder='pooled', from_student=False),
            ),
        ),
    )
)
