# KD and RKD: relations between the images of a batch, DeiT-Ti. KD stays, or
# the distillation head would not be trained. The embeddings are what the
# logits are made of: distillation token and mean of the teacher's visual
# tokens. Our choice: weights and unit length as in MMRazor's RKD config.
# Teacher: MAE ViT-B/16, 83.50 top-1. 300 epochs, 8 GPUs x 128 images.
# Top-1 on ImageNet-1k: no number in the paper, not run.
_base_ = './kd_deit-ti.py'

model = dict(
    distiller=dict(
        student_recorders=dict(
            embedding=dict(type='ModuleInputs', source='head.layers.head_dist')
        ),
        teacher_recorders=dict(
            embedding=dict(type='ModuleInputs', source='head.fc')
        ),
        distill_losses=dict(
            loss_distance=dict(type='InstanceDistanceLoss', loss_weight=25.0),
            loss_angle=dict(type='InstanceAngleLoss', loss_weight=50.0),
        ),
        loss_forward_mappings=dict(
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
