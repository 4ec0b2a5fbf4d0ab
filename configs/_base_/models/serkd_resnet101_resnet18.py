# Relations of superpixel tokens after stages 1, 2 and 3, beside KD.
#
# At 224 px the maps have 56x56, 28x28 and 14x14 positions: strides 4, 2 and 1
# give 14x14 tokens each. One connector per stage serves both networks, so that
# they share a learnable tokenizer. norm='ln' gives both maps tokens of like
# length, whatever their width. Our choice: every stage has a third of Eq. 12's
# weights, so that the relations of all stages weigh what they do on a ViT.
_base_ = './kd_resnet101_resnet18.py'

model = dict(
    distiller=dict(
        student_recorders=dict(
            stage1=dict(type='ModuleOutputs', source='backbone.layer1'),
            stage2=dict(type='ModuleOutputs', source='backbone.layer2'),
            stage3=dict(type='ModuleOutputs', source='backbone.layer3'),
        ),
        teacher_recorders=dict(
            stage1=dict(type='ModuleOutputs', source='backbone.layer1'),
            stage2=dict(type='ModuleOutputs', source='backbone.layer2'),
            stage3=dict(type='ModuleOutputs', source='backbone.layer3'),
        ),
        connectors=dict(
            stage1=[
                dict(type='FeatureMapTokenizer', mode='avg', stride=4),
                dict(type='SuperpixelTokenizer', grid_size=(2, 2), norm='ln'),
            ],
            stage2=[
                dict(type='FeatureMapTokenizer', mode='avg', stride=2),
                dict(type='SuperpixelTokenizer', grid_size=(2, 2), norm='ln'),
            ],
            stage3=[
                dict(type='FeatureMapTokenizer', mode='avg', stride=1),
                dict(type='SuperpixelTokenizer', grid_size=(2, 2), norm='ln'),
            ],
        ),
        distill_losses=dict(
            loss_distance1=dict(type='TokenDistanceLoss', loss_weight=0.5 / 3),
            loss_distance2=dict(type='TokenDistanceLoss', loss_weight=0.5 / 3),
            loss_distance3=dict(type='TokenDistanceLoss', loss_weight=0.5 / 3),
            loss_angle1=dict(type='TokenAngleLoss', loss_weight=1.0 / 3),
            loss_angle2=dict(type='TokenAngleLoss', loss_weight=1.0 / 3),
            loss_angle3=dict(type='TokenAngleLoss', loss_weight=1.0 / 3),
        ),
        loss_forward_mappings=dict(
            loss_distance1=dict(
                preds_S=dict(
                    recorder='stage1', from_student=True, connector='stage1'
                ),
                preds_T=dict(
                    recorder='stage1',
                    from_student=False,
                    connector='stage1',
                ),
            ),
            loss_distance2=dict(
                preds_S=dict(
                    recorder='stage2', from_student=True, connector='stage2'
                ),
                preds_T=dict(
                    recorder='stage2',
                    from_student=False,
                    connector='stage2',
                ),
            ),
            loss_distance3=dict(
                preds_S=dict(
                    recorder='stage3', from_student=True, connector='stage3'
                ),
                preds_T=dict(
                    recorder='stage3',
                    from_student=False,
                    connector='stage3',
                ),
            ),
            loss_angle1=dict(
                preds_S=dict(
                    recorder='stage1', from_student=True, connector='stage1'
                ),
                preds_T=dict(
                    recorder='stage1',
                    from_student=False,
                    connector='stage1',
                ),
            ),
            loss_angle2=dict(
                preds_S=dict(
                    recorder='stage2', from_student=True, connector='stage2'
                ),
                preds_T=dict(
                    recorder='stage2',
                    from_student=False,
                    connector='stage2',
                ),
            ),
            loss_angle3=dict(
                preds_S=dict(
                    recorder='stage3', from_student=True, connector='stage3'
                ),
                preds_T=dict(
                    recorder='stage3',
                    from_student=False,
                    connector='stage3',
                ),
            ),
        ),
    )
)
