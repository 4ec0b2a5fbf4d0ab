# Teacher: MAE ViT-B/16 fine-tuned on ImageNet-1k (MMPretrain: 83.50 top-1).
# Student: DeiT-S with class and distillation token, 14x14 visual tokens.
#
# Tokens are those of the final block of both. MAE's teacher has no final norm,
# the student has one: norm='ln' on both sides gives them like lengths, so that
# one softmax sharpness fits both.
model = dict(
    _scope_='mmrazor',
    type='FrozenTeacherDistill',
    architecture=dict(
        _scope_='mmpretrain',
        type='ImageClassifier',
        backbone=dict(
            type='DistilledVisionTransformer',
            arch='deit-small',
            img_size=224,
            patch_size=16,
        ),
        head=dict(
            type='DeiTDistillHead',
            num_classes=1000,
            in_channels=384,
            loss=dict(
                type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'
            ),
        ),
        init_cfg=[
            dict(type='TruncNormal', layer='Linear', std=0.02),
            dict(type='Constant', layer='LayerNorm', val=1.0, bias=0.0),
        ],
        train_cfg=dict(
            augments=[
                dict(type='Mixup', alpha=0.8),
                dict(type='CutMix', alpha=1.0),
            ]
        ),
    ),
    teacher=dict(
        cfg_path='mmpretrain::mae/benchmarks/'
        'vit-base-p16_8xb128-coslr-100e_in1k.py',
    ),
    teacher_ckpt='https://download.openmmlab.com/mmselfsup/1.x/mae/'
    'mae_vit-base-p16_8xb512-fp16-coslr-1600e_in1k/'
    'vit-base-p16_ft-8xb128-coslr-100e_in1k/'
    'vit-base-p16_ft-8xb128-coslr-100e_in1k_20220825-cf70aa21.pth',
    distiller=dict(
        type='SeRKDDistiller',
        student_recorders=dict(
            tokens=dict(type='ModuleOutputs', source='backbone.ln1'),
            logits=dict(type='ModuleOutputs', source='head.layers.head_dist'),
        ),
        teacher_recorders=dict(
            tokens=dict(type='ModuleOutputs', source='backbone.layers.11'),
            logits=dict(type='ModuleOutputs', source='head.fc'),
        ),
        connectors=dict(
            student_tokens=dict(type='VisualTokens', num_prefix_tokens=2),
            teacher_tokens=dict(type='VisualTokens', num_prefix_tokens=1),
            student_superpixels=[
                dict(type='VisualTokens', num_prefix_tokens=2),
                dict(type='SuperpixelTokenizer', grid_size=(2, 2), norm='ln'),
            ],
            teacher_superpixels=[
                dict(type='VisualTokens', num_prefix_tokens=1),
                dict(type='SuperpixelTokenizer', grid_size=(2, 2), norm='ln'),
            ],
        ),
        distill_losses=dict(
            loss_kd=dict(type='KLDivergence', tau=1.0, loss_weight=1.0),
            loss_feature=dict(
                type='TokenFeatureLoss',
                student_channels=384,
                teacher_channels=768,
                loss_weight=1.0,
            ),
            loss_distance=dict(type='TokenDistanceLoss', loss_weight=0.5),
            loss_angle=dict(type='TokenAngleLoss', loss_weight=1.0),
        ),
        loss_forward_mappings=dict(
            loss_kd=dict(
                preds_S=dict(recorder='logits', from_student=True),
                preds_T=dict(recorder='logits', from_student=False),
            ),
            loss_feature=dict(
                preds_S=dict(
                    recorder='tokens',
                    from_student=True,
                    connector='student_tokens',
                    connector_idx=0,
                ),
                preds_T=dict(
                    recorder='tokens',
                    from_student=False,
                    connector='teacher_tokens',
                    connector_idx=0,
                ),
            ),
            loss_distance=dict(
                preds_S=dict(
                    recorder='tokens',
                    from_student=True,
                    connector='student_superpixels',
                ),
                preds_T=dict(
                    recorder='tokens',
                    from_student=False,
                    connector='teacher_superpixels',
                ),
            ),
            loss_angle=dict(
                preds_S=dict(
                    recorder='tokens',
                    from_student=True,
                    connector='student_superpixels',
                ),
                preds_T=dict(
                    recorder='tokens',
                    from_student=False,
                    connector='teacher_superpixels',
                ),
            ),
        ),
    ),
)
