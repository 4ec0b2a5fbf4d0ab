# Copyright (c) The serkd_mm authors. All rights reserved.
from .deit_distill_head import DeiTDistillHead

__all__ = ['DeiTDistillHead']
