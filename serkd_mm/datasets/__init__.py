# Copyright (c) The serkd_mm authors. All rights reserved.
from .digits import Digits
from .skip_broken_images import SkipBrokenImages
from .transforms import BrokenImageError, LoadCheckedImage

__all__ = [
    'BrokenImageError',
    'Digits',
    'LoadCheckedImage',
    'SkipBrokenImages',
]
