# DKD, DeiT-Ti. It needs one class per image, so Mixup and CutMix are off. Our
# choice: alpha, beta and tau as in MMRazor's DKD config. Teacher: MAE
# ViT-B/16, 83.50 top-1. 300 epochs, 8 GPUs x 128 images.
# Top-1 on ImageNet-1k: no number in the paper, not run.
_base_ = './kd_deit-ti.py'

model = dict(
    architecture=dict(train_cfg=None),
    distiller=dict(
        student_recorders=dict(
            labels=dict(type='ModuleInputs', source='head.loss_module')
        ),
        distill_losses=dict(
            # MMRazor's config has reduction='mean', which sums over the batch.
            loss_kd=dict(
                _delete_=True,
                type='DKDLoss',
                tau=1.0,
                alpha=1.0,
                beta=0.5,
                reduction='batchmean',
            )
        ),
        loss_forward_mappings=dict(
            loss_kd=dict(
                gt_labels=dict(
                    recorder='labels', from_student=True, data_idx=1
                )
            )
        ),
    ),
)
