# Copyright (c) The serkd_mm authors. All rights reserved.
from .atomic_checkpoint_hook import AtomicCheckpointHook
from .broken_images_hook import BrokenImagesHook
from .exact_resume_hook import ExactResumeHook
from .stop_on_signal_hook import StopOnSignalHook

__all__ = [
    'AtomicCheckpointHook',
    'BrokenImagesHook',
    'ExactResumeHook',
    'StopOnSignalHook',
]
