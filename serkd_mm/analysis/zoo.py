# Copyright (c) The serkd_mm authors. All rights reserved.
"""Networks by their name in MMPretrain's model zoo, or by a config."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config
from mmengine.model import BaseModel
from mmpretrain.apis import ModelHub, list_models

from ..engine.config_file import read_config
from ..engine.run_config import unscoped_type
from ..models.algorithms.teacher import build_teacher


@dataclass(frozen=True)
class ZooNetwork:
    """A config and what the model zoo knows about it.

    Attributes:
        name: As it was asked for.
        path: Where a config finds it: ``package::config.py`` or a file.
        cfg: The config.
        checkpoint: Where its weights are, None if nobody knows.
        pretrained: Weights that its training starts from, None if nobody
            knows.
    """

    name: str
    path: str
    cfg: Config
    checkpoint: str | None = None
    pretrained: str | None = None

    def build(self) -> BaseModel:
        """Build the model, with random weights."""
        return build_teacher(dict(cfg_path=self.path))


def find_network(name: str) -> ZooNetwork:
    """Look a network up.

    Args:
        name: Name in MMPretrain's model zoo, or a config with a ``model``:
            the path of a file, or ``package::config.py``.

    Raises:
        FileNotFoundError: If the config file does not exist.
        ValueError: If the zoo has no such name, or the config no network.
    """
    if '::' not in name and not name.endswith('.py'):
        return _from_zoo(name)
    cfg = read_config(name)
    model = cfg.get('model') or {}
    if 'backbone' not in model:
        cure = 'name the config of one network'
        if unscoped_type(model) in ('TimmClassifier', 'HuggingFaceClassifier'):
            cure = (
                f'recorders of a {unscoped_type(model)} are written by hand, '
                "such as source='model.norm' and source='model.head'"
            )
        raise ValueError(
            f'{name!r} has no model.backbone'
            + (' but a student and a teacher' if 'teacher' in model else '')
            + f'; {cure}'
        )
    path = name if '::' in name else Path(name).resolve().as_posix()
    return ZooNetwork(name, path, cfg, cfg.get('load_from'))


def _from_zoo(name: str) -> ZooNetwork:
    known = list_models()
    if name.lower() not in known:
        raise ValueError(
            f"{name!r} is neither a name of MMPretrain's model zoo nor a "
            f'config (.py); nearest names: {", ".join(_nearest(name, known))};'
            ' mmpretrain.list_models() lists all'
        )
    try:
        info = ModelHub.get(name)
    except Exception as error:
        raise ValueError(
            f'the config of {name!r} cannot be read by this MMPretrain '
            f'({type(error).__name__}: {error}); choose another network'
        ) from error
    filename = Path(info.config.filename).as_posix()
    _, _, relative = filename.rpartition('/.mim/configs/')
    return ZooNetwork(
        name,
        f'mmpretrain::{relative}',
        info.config,
        info.weights,
        _upstream_weights(name.lower()),
    )


def _nearest(name: str, known: list[str]) -> list[str]:
    """Names that hold this one, or else those that begin most alike."""
    name = name.lower().replace('_', '-')
    spelt = {k: k.replace('_', '-') for k in known}
    within = [k for k in known if name in spelt[k]]
    # ImageNet-1k is what most people mean.
    within.sort(key=lambda k: ('in1k' not in k, k.find(name), len(k)))

    def likeness(k: str) -> tuple[bool, float]:
        begin = spelt[k][: len(name) + 1]
        ratio = difflib.SequenceMatcher(None, name, begin).ratio()
        return begin.startswith(name.split('-')[0]), ratio

    return (within or sorted(known, key=likeness, reverse=True))[:5]


def _upstream_weights(name: str) -> str | None:
    """Weights of the pre-training that names this as its downstream."""
    for info in ModelHub._models_dict.values():
        downstream = info.data.get('Downstream') or []
        if name in (entry.lower() for entry in downstream):
            return info.weights
    return None
