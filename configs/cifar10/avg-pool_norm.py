# Relations of average-pooled tokens, 2x2 each, with SeRKD's norm: its
# superpixels before their first iteration. ResNet-56 to a ViT of 6 layers,
# CIFAR-10, 5,000 labelled images. 100 epochs, 1 GPU x 128 images. Top-1: not
# run.
_base_ = './serkd.py'

model = dict(
    distiller=dict(
        connectors=dict(
            student_superpixels=[
                dict(type='VisualTokens', num_prefix_tokens=2),
                dict(
                    type='SuperpixelTokenizer',
                    grid_size=(2, 2),
                    num_iters=0,
                    norm='ln',
                ),
            ],
            teacher_superpixels=[
                dict(type='VisualTokens', num_prefix_tokens=0),
                dict(
                    type='SuperpixelTokenizer',
                    grid_size=(2, 2),
                    num_iters=0,
                    norm='ln',
                ),
            ],
        )
    )
)
