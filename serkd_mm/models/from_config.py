# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

from typing import Any

from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope


def build_model(cfg: Config, scope: str = 'mmpretrain') -> Any:
    """Build the model of a whole config as MMEngine's runner does.

    Args:
        cfg: Config with a ``model``. Its ``data_preprocessor``, if it has
            one, is that of a model which has none.
        scope: Where types are looked up if the config has no
            ``default_scope``.
    """
    model = cfg.model.copy()
    if cfg.get('data_preprocessor') is not None:
        model.setdefault('data_preprocessor', cfg.data_preprocessor)
    scope = cfg.get('default_scope', scope)
    with DefaultScope.overwrite_default_scope(scope):
        return MODELS.build(model)
