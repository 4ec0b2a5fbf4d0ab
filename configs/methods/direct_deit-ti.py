# Relations of all 196 visual tokens, DeiT-Ti. Raw tokens, without clustering
# and so without norm. Teacher: MAE ViT-B/16, 83.50 top-1. 300 epochs, 8 GPUs x
# 128 images.
# Top-1 on ImageNet-1k: 73.9 (paper, Table VI), not run.
_base_ = '../serkd_deit-ti.py'

model = dict(
    distiller=dict(
        connectors=dict(
            _delete_=True,
            student_tokens=dict(type='VisualTokens', num_prefix_tokens=2),
            teacher_tokens=dict(type='VisualTokens', num_prefix_tokens=1),
        ),
        loss_forward_mappings=dict(
            loss_distance=dict(
                preds_S=dict(connector='student_tokens', connector_idx=0),
                preds_T=dict(connector='teacher_tokens', connector_idx=0),
            ),
            loss_angle=dict(
                preds_S=dict(connector='student_tokens', connector_idx=0),
                preds_T=dict(connector='teacher_tokens', connector_idx=0),
            ),
        ),
    )
)
