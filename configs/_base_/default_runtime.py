_base_ = 'mmpretrain::_base_/default_runtime.py'

custom_imports = dict(imports=['serkd_mm'], allow_failed_imports=False)

default_hooks = dict(
    checkpoint=dict(type='AtomicCheckpointHook'),
    # SIGTERM saves a checkpoint; exit code 143.
    stop_on_signal=dict(type='StopOnSignalHook'),
)
