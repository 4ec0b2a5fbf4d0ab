# Teacher: ResNet-56 with ImageNet's mean and std; its last map has 8x8
# positions of 64 channels. Student: ViT of 6 layers with patch 4, so that
# 32x32 pixels give 8x8 tokens.
_base_ = './serkd_mae-base_deit-small.py'

model = dict(
    architecture=dict(
        backbone=dict(
            arch=dict(
                _delete_=True,
                embed_dims=192,
                num_layers=6,
                num_heads=3,
                feedforward_channels=384,
            ),
            img_size=32,
            patch_size=4,
        ),
        head=dict(num_classes=10, in_channels=192),
    ),
    teacher=dict(
        _delete_=True,
        _scope_='mmpretrain',
        type='ImageClassifier',
        data_preprocessor=dict(
            mean=[123.675, 116.28, 103.53],
            std=[58.395, 57.12, 57.375],
            # CIFAR-10's images are RGB already.
            to_rgb=False,
        ),
        backbone=dict(type='ThinResNetCIFAR', depth=56),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=10, in_channels=64),
    ),
    teacher_ckpt='checkpoints/resnet56_cifar10_mmpretrain.pth',
    distiller=dict(
        teacher_recorders=dict(
            tokens=dict(source='backbone.layer3'),
            logits=dict(source='head.fc'),
        ),
        distill_losses=dict(
            loss_feature=dict(student_channels=192, teacher_channels=64)
        ),
    ),
)
