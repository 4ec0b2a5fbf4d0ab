_base_ = 'mmpretrain::_base_/default_runtime.py'

custom_imports = dict(imports=['serkd_mm'], allow_failed_imports=False)

default_hooks = dict(
    # Complete or absent, and resumed from the newest that can be read.
    checkpoint=dict(type='AtomicCheckpointHook'),
    # A resumed run ends as one that was not interrupted.
    exact_resume=dict(type='ExactResumeHook'),
    # A loss or gradient that is NaN or infinite stops training.
    non_finite=dict(type='NonFiniteHook'),
    # SIGTERM saves a checkpoint; exit code 143.
    stop_on_signal=dict(type='StopOnSignalHook'),
    # The teacher's top-1 before the first epoch, on a few images.
    teacher_check=dict(type='TeacherCheckHook', min_top1=50, num_batches=10),
    # How it goes: images per second, a bar on terminals, run.json.
    log_transfer=dict(type='LogTransferHook'),
    throughput=dict(type='ThroughputHook'),
    progress=dict(type='ProgressHook'),
    run_record=dict(type='RunRecordHook'),
)

# The host's pattern, and what is logged beside it.
log_processor = dict(
    mean_pattern=r'.*(loss|time|data_time|grad_norm|agreement).*'
)

# A full disk costs lines of scalars, not the run.
vis_backends = [dict(type='TolerantVisBackend')]
visualizer = dict(vis_backends=vis_backends)
