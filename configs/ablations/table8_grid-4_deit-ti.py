# Cells of 4x4 tokens, 16 superpixels, DeiT-Ti. Teacher: MAE ViT-B/16, 83.50
# top-1. 300 epochs, 8 GPUs x 128 images.
# Top-1 on ImageNet-1k: 74.5 (paper), not run.
_base_ = '../serkd_deit-ti.py'

model = dict(
    distiller=dict(
        connectors=dict(
            student_superpixels=[
                dict(type='VisualTokens', num_prefix_tokens=2),
                dict(type='SuperpixelTokenizer', grid_size=(4, 4), norm='ln'),
            ],
            teacher_superpixels=[
                dict(type='VisualTokens', num_prefix_tokens=1),
                dict(type='SuperpixelTokenizer', grid_size=(4, 4), norm='ln'),
            ],
        )
    )
)
