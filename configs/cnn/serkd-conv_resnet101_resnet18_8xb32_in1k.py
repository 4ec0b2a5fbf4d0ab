# SeRKD, strided convolutions. Teacher: ResNet-101, 77.97 top-1. Student:
# ResNet-18. 100 epochs, 8 GPUs x 32 images.
# Top-1 on ImageNet-1k: 72.25 (paper), not run.
_base_ = './serkd-avg_resnet101_resnet18_8xb32_in1k.py'

model = dict(
    distiller=dict(
        connectors=dict(
            stage1=[
                dict(type='FeatureMapTokenizer', mode='conv', stride=4),
                dict(type='SuperpixelTokenizer', grid_size=(2, 2), norm='ln'),
            ],
            stage2=[
                dict(type='FeatureMapTokenizer', mode='conv', stride=2),
                dict(type='SuperpixelTokenizer', grid_size=(2, 2), norm='ln'),
            ],
        )
    )
)
