# DeiT's hard distillation from DeiT's teacher, DeiT-Ti: the distillation head
# learns the teacher's decision. Weights as in DeiT. Teacher: RegNetY-16GF,
# 82.89 top-1. 300 epochs, 8 GPUs x 128 images.
# Top-1 on ImageNet-1k: 74.5 (paper, Table II), not run.
_base_ = './hard_deit-ti.py'

model = dict(
    teacher=dict(cfg_path='serkd_mm::_base_/teachers/regnety-16gf_in1k.py'),
    teacher_ckpt='https://download.pytorch.org/models/'
    'regnet_y_16gf-3e4a00f9.pth',
    # Torchvision's names below MMPretrain's.
    teacher_revise_keys=[
        (r'^fc\.', 'head.fc.'),
        (r'^(?!head\.)', 'backbone.'),
    ],
)
