# Copyright (c) The serkd_mm authors. All rights reserved.
from .load_checked_image import BrokenImageError, LoadCheckedImage

__all__ = ['BrokenImageError', 'LoadCheckedImage']
