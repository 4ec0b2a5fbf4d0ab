_base_ = './default_runtime.py'

default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(interval=10, max_keep_ckpts=1),
    teacher_check=dict(min_top1=None),
)

randomness = dict(seed=0)
