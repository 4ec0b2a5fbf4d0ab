# CSKD: DeiT's hard distillation, and the teacher's classifier at each of the
# 7x7 positions of its last map for the visual tokens there, from local to
# global logits in the course of training. Weights as in CSKD. Teacher:
# RegNetY-16GF, 82.89 top-1. 300 epochs, 8 GPUs x 128 images.
# Top-1 on ImageNet-1k: 76.3 (paper, Table II), not run.
_base_ = './hard_regnety-16gf_deit-ti.py'

model = dict(
    distiller=dict(
        student_recorders=dict(
            tokens=dict(type='ModuleOutputs', source='backbone.ln1'),
            weight=dict(
                type='Parameter', source='head.layers.head_dist.weight'
            ),
            bias=dict(type='Parameter', source='head.layers.head_dist.bias'),
        ),
        teacher_recorders=dict(
            tokens=dict(type='ModuleOutputs', source='backbone.trunk_output'),
            weight=dict(type='Parameter', source='head.fc.weight'),
            bias=dict(type='Parameter', source='head.fc.bias'),
        ),
        connectors=dict(
            student_positions=[
                dict(type='VisualTokens', num_prefix_tokens=2),
                dict(type='FeatureMapTokenizer', mode='avg', stride=2),
            ],
            teacher_positions=dict(type='VisualTokens'),
        ),
        distill_losses=dict(
            loss_spatial=dict(
                type='CSKDLoss',
                target='hard',
                schedule='linear',
                loss_weight=1.0,
            )
        ),
        loss_forward_mappings=dict(
            loss_spatial=dict(
                preds_S=dict(
                    recorder='tokens',
                    from_student=True,
                    connector='student_positions',
                    connector_idx=0,
                ),
                preds_T=dict(
                    recorder='tokens',
                    from_student=False,
                    connector='teacher_positions',
                    connector_idx=0,
                ),
                weight_S=dict(recorder='weight', from_student=True),
                bias_S=dict(recorder='bias', from_student=True),
                weight_T=dict(recorder='weight', from_student=False),
                bias_T=dict(recorder='bias', from_student=False),
            )
        ),
    )
)
