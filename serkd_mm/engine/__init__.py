# Copyright (c) The serkd_mm authors. All rights reserved.
from .atomic_backend import AtomicLocalBackend
from .hooks import (
    AtomicCheckpointHook,
    BrokenImagesHook,
    ExactResumeHook,
    StopOnSignalHook,
)
from .optimizers import MergedOptimWrapperConstructor

__all__ = [
    'AtomicCheckpointHook',
    'AtomicLocalBackend',
    'BrokenImagesHook',
    'ExactResumeHook',
    'MergedOptimWrapperConstructor',
    'StopOnSignalHook',
]
