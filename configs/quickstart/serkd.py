# The student of student.py, same data and budget, with SeRKD from the teacher
# of teacher.py.
# 40 epochs, 1 process x 25 images. Top-1: 94.6 (measured, seed 0; what
# tools/quickstart.sh prints).
_base_ = [
    '../_base_/models/serkd_mae-base_deit-small.py',
    '../_base_/datasets/digits.py',
    '../_base_/schedules/quickstart.py',
    '../_base_/quickstart_runtime.py',
]

model = dict(
    architecture=dict(
        backbone=dict(
            arch=dict(
                _delete_=True,
                embed_dims=48,
                num_layers=3,
                num_heads=3,
                feedforward_channels=96,
            ),
            img_size=32,
            patch_size=4,
        ),
        head=dict(
            num_classes=10,
            in_channels=48,
            loss=dict(_delete_=True, type='CrossEntropyLoss'),
        ),
        init_cfg=None,
    ),
    teacher=dict(_delete_=True, cfg_path='{{ fileDirname }}/teacher.py'),
    teacher_ckpt='work_dirs/quickstart/teacher/epoch_40.pth',
    distiller=dict(
        teacher_recorders=dict(
            tokens=dict(source='backbone.ln1'),
            logits=dict(source='head.layers.head'),
        ),
        distill_losses=dict(
            # Our choice: the teacher is nearly certain on so few images.
            loss_kd=dict(tau=4.0),
            loss_feature=dict(student_channels=48, teacher_channels=96),
        ),
    ),
)
