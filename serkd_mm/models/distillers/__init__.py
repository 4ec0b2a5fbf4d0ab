# Copyright (c) The serkd_mm authors. All rights reserved.
from .serkd_distiller import SeRKDDistiller

__all__ = ['SeRKDDistiller']
