# Relations of average-pooled tokens, 2x2 each: superpixels that stay as they
# start. Raw tokens, without norm. ResNet-56 to a ViT of 6 layers, CIFAR-10,
# 5,000 labelled images. 100 epochs, 1 GPU x 128 images. Top-1: 73.02 ± 1.07
# (three seeds, bfloat16 on a CPU); on a GPU not run.
_base_ = './serkd.py'

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
                dict(type='VisualTokens', num_prefix_tokens=0),
                dict(
                    type='SuperpixelTokenizer', grid_size=(2, 2), num_iters=0
                ),
            ],
        )
    )
)
