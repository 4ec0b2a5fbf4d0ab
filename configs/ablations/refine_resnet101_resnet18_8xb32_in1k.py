# SeRKD, average pooling, with the student's superpixels refined by a residual
# 3x3 convolution per stage; the teacher's stay as they are. Teacher:
# ResNet-101, 77.97 top-1. Student: ResNet-18. 100 epochs, 8 GPUs x 32 images.
# Top-1 on ImageNet-1k: no number in the paper, not run.
_base_ = '../cnn/serkd-avg_resnet101_resnet18_8xb32_in1k.py'

model = dict(
    distiller=dict(
        connectors=dict(
            student_stage1=[
                dict(type='FeatureMapTokenizer', mode='avg', stride=4),
                dict(
                    type='SuperpixelTokenizer',
                    grid_size=(2, 2),
                    norm='ln',
                    refine_channels=64,
                ),
            ],
            student_stage2=[
                dict(type='FeatureMapTokenizer', mode='avg', stride=2),
                dict(
                    type='SuperpixelTokenizer',
                    grid_size=(2, 2),
                    norm='ln',
                    refine_channels=128,
                ),
            ],
            student_stage3=[
                dict(type='FeatureMapTokenizer', mode='avg', stride=1),
                dict(
                    type='SuperpixelTokenizer',
                    grid_size=(2, 2),
                    norm='ln',
                    refine_channels=256,
                ),
            ],
        ),
        loss_forward_mappings=dict(
            loss_distance1=dict(preds_S=dict(connector='student_stage1')),
            loss_distance2=dict(preds_S=dict(connector='student_stage2')),
            loss_distance3=dict(preds_S=dict(connector='student_stage3')),
            loss_angle1=dict(preds_S=dict(connector='student_stage1')),
            loss_angle2=dict(preds_S=dict(connector='student_stage2')),
            loss_angle3=dict(preds_S=dict(connector='student_stage3')),
        ),
    )
)
