# Copyright (c) The serkd_mm authors. All rights reserved.
from .bfloat16_optim_wrapper import Bfloat16OptimWrapper
from .merged_constructor import MergedOptimWrapperConstructor

__all__ = ['Bfloat16OptimWrapper', 'MergedOptimWrapperConstructor']
