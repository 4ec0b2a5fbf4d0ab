# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

import copy
from typing import Any

from mmengine import hub
from mmengine.config import Config, ConfigDict
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


def student_network(architecture: dict, *preprocessors: Any) -> ConfigDict:
    """A student's config with the preprocessing that it is trained with.

    Args:
        architecture: Config of the network, or MMRazor's reference to that of
            an installed package, ``dict(cfg_path='package::config.py')``,
            which is resolved.
        preprocessors: Those that a run has besides, the first one first;
            None for none. The student's own goes before them. That of the
            config which is referred to comes last, as it was not chosen for
            the run's data.

    Raises:
        FileNotFoundError: If the package has no such config.
        ValueError: If ``cfg_path`` names no folder of the package, where those
            of MMPretrain lie.
    """
    network, last = ConfigDict(architecture), None
    path = network.get('cfg_path')
    if path is not None and 'type' not in network:
        given, network = network, ConfigDict(_scope_=path.partition('::')[0])
        del given['cfg_path']
        pretrained = given.pop('pretrained', False)
        cfg = hub.get_config(path, pretrained)
        network.update(cfg.model)
        last = network.pop('data_preprocessor', None)
        last = cfg.get('data_preprocessor', last)
        if pretrained:
            weights = dict(type='Pretrained', checkpoint=cfg.model_path)
            network.init_cfg = weights
        for name, value in given.items():
            network.setdefault(name, value)
    for preprocessor in (*preprocessors, last):
        if preprocessor is not None:
            # A copy: building writes the batch augmentations into it.
            network.setdefault('data_preprocessor', copy.copy(preprocessor))
    return network
