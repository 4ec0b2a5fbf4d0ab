# Relations of average-pooled tokens, 2x2 each, on 5 labels per class of the
# digits: superpixels that stay as they start. Raw tokens, without norm.
# Top-1: table of tools/ablate.py, see ../README.md.
_base_ = '../quickstart/serkd.py'

model = dict(
    distiller=dict(
        connectors=dict(
            student_superpixels=[
                dict(type='VisualTokens', num_prefix_tokens=2),
                dict(
                    type='SuperpixelTokenizer', grid_size=(2, 2), num_iters=0
                ),
            ],
            teacher_superpixels=[
                dict(type='VisualTokens', num_prefix_tokens=1),
                dict(
                    type='SuperpixelTokenizer', grid_size=(2, 2), num_iters=0
                ),
            ],
        )
    )
)
