# SeRKD with the association as STViT computes it, DeiT-Ti: the same as in Eq.
# 7, without gradient through it. Our choice: no mass outside the grid, where
# STViT's code pads with zeros. Teacher: MAE ViT-B/16, 83.50 top-1. 300 epochs,
# 8 GPUs x 128 images.
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
                    norm='ln',
                    differentiable_assignment=False,
                ),
            ]
        )
    )
)
