# Copyright (c) The serkd_mm authors. All rights reserved.
"""Semantics-based relation knowledge distillation for OpenMMLab.

Importing the package registers its classes with MMRazor (algorithm,
distiller, connectors, losses) and MMPretrain (head, dataset), and makes
MMEngine read checkpoints as data (:mod:`serkd_mm.engine.safe_load`).
"""

from . import compat

compat.apply()

from . import datasets, engine, models  # noqa: E402
from .engine import safe_load  # noqa: E402
from .version import __version__  # noqa: E402

safe_load.install()

__all__ = ['__version__', 'datasets', 'engine', 'models']
