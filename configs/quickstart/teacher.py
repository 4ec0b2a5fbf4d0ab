# Teacher: a small ViT on all 1,078 training images of the digits.
# 40 epochs, 1 process x 25 images. Top-1: 97.1 (measured, seed 0; what
# tools/quickstart.sh prints).
_base_ = [
    '../_base_/datasets/digits.py',
    '../_base_/schedules/quickstart.py',
    '../_base_/quickstart_runtime.py',
]

model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='VisionTransformer',
        arch=dict(
            embed_dims=96,
            num_layers=4,
            num_heads=3,
            feedforward_channels=192,
        ),
        img_size=32,
        patch_size=4,
    ),
    head=dict(type='VisionTransformerClsHead', num_classes=10, in_channels=96),
)

train_dataloader = dict(
    dataset=dict(times=1, dataset=dict(samples_per_class=None))
)
