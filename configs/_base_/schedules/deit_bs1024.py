# DeiT's recipe as MMPretrain's DeiT configs have it: AdamW, lr 5e-4 per 512
# images, weight decay 0.05, 20 warm-up epochs, cosine to 300 epochs.
_base_ = 'mmpretrain::_base_/schedules/imagenet_bs1024_adamw_swin.py'

optim_wrapper = dict(
    constructor='MergedOptimWrapperConstructor',
    paramwise_cfg=dict(
        custom_keys={
            '.cls_token': dict(decay_mult=0.0),
            '.dist_token': dict(decay_mult=0.0),
            '.pos_embed': dict(decay_mult=0.0),
        }
    ),
    clip_grad=dict(max_norm=5.0),
)
