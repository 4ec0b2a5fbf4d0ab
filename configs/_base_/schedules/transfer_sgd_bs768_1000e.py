# DeiT's fine-tuning. Said by its authors for CIFAR-10 and Cars at 224 px
# (github.com/facebookresearch/deit/issues/45): SGD, lr 0.01 for 768 images,
# weight decay 1e-4, 1,000 epochs, neither random erasing nor stochastic depth,
# all else as on ImageNet. Of DeiT's defaults: momentum 0.9, 5 warm-up epochs
# from 1e-6, cosine to 1e-5. Our choice: no averaged weights and no repeated
# augmentation, which MMPretrain's configs of the small DeiTs leave out too.
optim_wrapper = dict(
    constructor='MergedOptimWrapperConstructor',
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=1e-4),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        custom_keys={
            '.cls_token': dict(decay_mult=0.0),
            '.dist_token': dict(decay_mult=0.0),
            '.pos_embed': dict(decay_mult=0.0),
            # Positions of DearKD's students.
            '.scaled_dot_product_attention': dict(decay_mult=0.0),
        },
    ),
)

param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-4,
        by_epoch=True,
        end=5,
        convert_to_iter_based=True,
    ),
    dict(
        type='CosineAnnealingLR',
        eta_min=1e-5,
        by_epoch=True,
        begin=5,
        convert_to_iter_based=True,
    ),
]

train_cfg = dict(by_epoch=True, max_epochs=1000, val_interval=10)
val_cfg = dict()
test_cfg = dict()

auto_scale_lr = dict(base_batch_size=768)
