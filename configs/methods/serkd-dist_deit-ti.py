# SeRKD with DIST in the place of KD, DeiT-Ti. Our choice: DIST's weights as in
# MMRazor's DIST config. Teacher: MAE ViT-B/16, 83.50 top-1. 300 epochs, 8 GPUs
# x 128 images.
# Top-1 on ImageNet-1k: no number in the paper, not run.
_base_ = '../serkd_deit-ti.py'

model = dict(
    # From a head of zeros, as DeiT's starts, DIST's correlation divides by 0:
    # a first gradient thousands of times as large.
    architecture=dict(
        head=dict(init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02))
    ),
    distiller=dict(
        distill_losses=dict(
            loss_kd=dict(_delete_=True, type='DISTLoss', loss_weight=2.0)
        ),
        loss_forward_mappings=dict(
            loss_kd=dict(
                _delete_=True,
                logits_S=dict(recorder='logits', from_student=True),
                logits_T=dict(recorder='logits', from_student=False),
            )
        ),
    ),
)
