# Copyright (c) The serkd_mm authors. All rights reserved.
from .digits import Digits

__all__ = ['Digits']
