# Copyright (c) The serkd_mm authors. All rights reserved.
from .bfloat16_optim_wrapper import (
    AMP_ARGUMENTS,
    Bfloat16OptimWrapper,
    cpu_attention,
    mix_precision,
)
from .merged_constructor import (
    PARAMWISE_KEYS,
    MergedOptimWrapperConstructor,
)

__all__ = [
    'AMP_ARGUMENTS',
    'PARAMWISE_KEYS',
    'Bfloat16OptimWrapper',
    'MergedOptimWrapperConstructor',
    'cpu_attention',
    'mix_precision',
]
