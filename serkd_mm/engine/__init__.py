# Copyright (c) The serkd_mm authors. All rights reserved.
from .atomic_backend import AtomicLocalBackend
from .hooks import AtomicCheckpointHook
from .optimizers import MergedOptimWrapperConstructor

__all__ = [
    'AtomicCheckpointHook',
    'AtomicLocalBackend',
    'MergedOptimWrapperConstructor',
]
