# RegNetY-16GF as torchvision has it, whose weights IMAGENET1K_V2 reach 82.89
# top-1 (torchvision), DeiT's own teacher's number. 224 px end in a 7x7 map of
# 3024 channels.
model = dict(
    type='ImageClassifier',
    backbone=dict(type='TorchvisionBackbone', name='regnet_y_16gf'),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=1000, in_channels=3024),
)
data_preprocessor = dict(
    num_classes=1000,
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True,
)
