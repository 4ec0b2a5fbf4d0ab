# Relations of max-pooled tokens, 2x2 each, DeiT-Ti. Raw tokens, without
# clustering and so without norm. Teacher: MAE ViT-B/16, 83.50 top-1. 300
# epochs, 8 GPUs x 128 images.
# Top-1 on ImageNet-1k: 73.3 (paper, Table VI), not run.
_base_ = '../serkd_deit-ti.py'

model = dict(
    distiller=dict(
        connectors=dict(
            student_superpixels=[
                dict(type='VisualTokens', num_prefix_tokens=2),
                dict(type='FeatureMapTokenizer', mode='max', stride=2),
            ],
            teacher_superpixels=[
                dict(type='VisualTokens', num_prefix_tokens=1),
                dict(type='FeatureMapTokenizer', mode='max', stride=2),
            ],
        ),
        loss_forward_mappings=dict(
            loss_distance=dict(
                preds_S=dict(connector_idx=0), preds_T=dict(connector_idx=0)
            ),
            loss_angle=dict(
                preds_S=dict(connector_idx=0), preds_T=dict(connector_idx=0)
            ),
        ),
    )
)
