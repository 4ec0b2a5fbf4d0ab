# DearKD. Stage one, 250 epochs: DeiT's hard distillation, and early features
# of the teacher for the first layers, whose attention can be a convolution.
# Stage two, 50 epochs: labels alone, for both heads. Our choice, as there is
# no public code: layers, weights and epochs. Teacher: RegNetY-16GF, 82.89
# top-1. 300 epochs, 8 GPUs x 128 images.
# Top-1 on ImageNet-1k: 74.8 (paper, Table II), not run.
_base_ = './hard_regnety-16gf_deit-ti.py'

model = dict(
    architecture=dict(
        backbone=dict(type='ConvAttentionDeiT', num_conv_layers=4)
    ),
    distiller=dict(
        student_recorders=dict(
            early1=dict(type='ModuleOutputs', source='backbone.layers.1'),
            early2=dict(type='ModuleOutputs', source='backbone.layers.3'),
        ),
        teacher_recorders=dict(
            # 56x56 positions of 224 channels and 28x28 of 448.
            early1=dict(
                type='ModuleOutputs', source='backbone.trunk_output.block1'
            ),
            early2=dict(
                type='ModuleOutputs', source='backbone.trunk_output.block2'
            ),
        ),
        connectors=dict(
            student_early1=[
                dict(type='VisualTokens', num_prefix_tokens=2),
                dict(type='TokenAligner', channels=192),
            ],
            student_early2=[
                dict(type='VisualTokens', num_prefix_tokens=2),
                dict(type='TokenAligner', channels=192),
            ],
            teacher_early1=dict(
                type='FeatureMapTokenizer', mode='avg', stride=4
            ),
            teacher_early2=dict(
                type='FeatureMapTokenizer', mode='avg', stride=2
            ),
        ),
        distill_losses=dict(
            loss_early1=dict(
                type='TokenFeatureLoss',
                student_channels=192,
                teacher_channels=224,
                loss_weight=0.1,
            ),
            loss_early2=dict(
                type='TokenFeatureLoss',
                student_channels=192,
                teacher_channels=448,
                loss_weight=0.1,
            ),
        ),
        loss_forward_mappings=dict(
            loss_early1=dict(
                preds_S=dict(
                    recorder='early1',
                    from_student=True,
                    connector='student_early1',
                    connector_idx=0,
                ),
                preds_T=dict(
                    recorder='early1',
                    from_student=False,
                    connector='teacher_early1',
                    connector_idx=0,
                ),
            ),
            loss_early2=dict(
                preds_S=dict(
                    recorder='early2',
                    from_student=True,
                    connector='student_early2',
                    connector_idx=0,
                ),
                preds_T=dict(
                    recorder='early2',
                    from_student=False,
                    connector='teacher_early2',
                    connector_idx=0,
                ),
            ),
        ),
    ),
)

# The positions of attention, as those of tokens, are not decayed.
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={'.scaled_dot_product_attention': dict(decay_mult=0.0)}
    )
)

custom_hooks = [dict(type='mmrazor.StopDistillHook', stop_epoch=250)]
