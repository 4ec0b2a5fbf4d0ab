# Copyright (c) The serkd_mm authors. All rights reserved.
from .merged_constructor import MergedOptimWrapperConstructor

__all__ = ['MergedOptimWrapperConstructor']
