# Copyright (c) The serkd_mm authors. All rights reserved.
from .optimizers import MergedOptimWrapperConstructor

__all__ = ['MergedOptimWrapperConstructor']
