# CNN -> ViT on CIFAR-10. Teacher: ResNet-56, last map 8x8 of 64 channels, with
# ImageNet's mean and std. Student: ViT of 6 layers with patch 4, so that 32x32
# pixels give 8x8 tokens. 100 epochs, 1 GPU x 128 images.
# Bring the teacher's checkpoint: a ThinResNetCIFAR(depth=56) that MMPretrain
# trained. Top-1: not run.
_base_ = [
    '../_base_/models/serkd_mae-base_deit-small.py',
    '../_base_/datasets/cifar10_bs128.py',
    '../_base_/schedules/adamw_bs128_100e.py',
    '../_base_/default_runtime.py',
]

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
