# Copyright (c) The serkd_mm authors. All rights reserved.
from .atomic_backend import AtomicLocalBackend
from .forward_dump import replay
from .hooks import (
    AtomicCheckpointHook,
    BrokenImagesHook,
    ExactResumeHook,
    ExportStudentHook,
    NonFiniteHook,
    StopOnSignalHook,
    TeacherCheckHook,
)
from .optimizers import Bfloat16OptimWrapper, MergedOptimWrapperConstructor
from .tolerant_vis_backend import TolerantVisBackend

__all__ = [
    'AtomicCheckpointHook',
    'AtomicLocalBackend',
    'Bfloat16OptimWrapper',
    'BrokenImagesHook',
    'ExactResumeHook',
    'ExportStudentHook',
    'MergedOptimWrapperConstructor',
    'NonFiniteHook',
    'StopOnSignalHook',
    'TolerantVisBackend',
    'TeacherCheckHook',
    'replay',
]
