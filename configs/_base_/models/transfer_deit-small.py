# An exported SeRKD-S with a new head, without teacher.
#
# The distillation token is kept: MMPretrain's head trains what it predicts
# with, the mean of both heads' logits. (Its warning says that it does not
# distil.) To drop the token, from the weights too, set
#   model.backbone.type=UndistilledVisionTransformer
#   model.head.type=VisionTransformerClsHead
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='DistilledVisionTransformer',
        arch='deit-small',
        img_size=224,
        patch_size=16,
        # What tools/export_student.py has written.
        init_cfg=dict(
            type='Pretrained',
            checkpoint='students/serkd_deit-s.pth',
            prefix='backbone',
        ),
    ),
    head=dict(
        type='DeiTClsHead',
        num_classes=10,
        in_channels=384,
        loss=dict(
            type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'
        ),
    ),
    train_cfg=dict(
        augments=[
            dict(type='Mixup', alpha=0.8),
            dict(type='CutMix', alpha=1.0),
        ]
    ),
)
