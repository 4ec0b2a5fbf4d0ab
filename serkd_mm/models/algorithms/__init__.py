# Copyright (c) The serkd_mm authors. All rights reserved.
from .frozen_teacher_distill import FrozenTeacherDistill

__all__ = ['FrozenTeacherDistill']
