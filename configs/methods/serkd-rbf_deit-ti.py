# SeRKD with SSN's association (Eq. 5), DeiT-Ti. Our choice: tokens of unit
# length, whose squared distances lie in [0, 4]; with norm='ln' they grow with
# the width and the association becomes hard. Teacher: MAE ViT-B/16, 83.50
# top-1. 300 epochs, 8 GPUs x 128 images.
# Top-1 on ImageNet-1k: no number in the paper, not run.
_base_ = '../serkd_deit-ti.py'

model = dict(
    distiller=dict(
        connectors=dict(
            student_superpixels=[
                dict(type='VisualTokens', num_prefix_tokens=2),
                dict(
                    type='SuperpixelTokenizer',
                    grid_size=(2, 2),
                    affinity='rbf',
                    norm='l2',
                ),
            ],
            teacher_superpixels=[
                dict(type='VisualTokens', num_prefix_tokens=1),
                dict(
                    type='SuperpixelTokenizer',
                    grid_size=(2, 2),
                    affinity='rbf',
                    norm='l2',
                ),
            ],
        )
    )
)
