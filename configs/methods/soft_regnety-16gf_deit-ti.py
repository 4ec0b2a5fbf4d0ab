# DeiT's soft distillation from DeiT's teacher, DeiT-Ti: tau 3, weights 0.9 for
# the labels and 0.1 for the teacher as in DeiT. Teacher: RegNetY-16GF, 82.89
# top-1. 300 epochs, 8 GPUs x 128 images.
# Top-1 on ImageNet-1k: no number in the paper, not run.
_base_ = './soft_deit-ti.py'

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
