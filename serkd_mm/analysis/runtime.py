# Copyright (c) The serkd_mm authors. All rights reserved.
"""What a config of another package lacks of this one's runtime."""

from __future__ import annotations

from typing import Any

from mmengine import hub
from mmengine.config import Config

_HOST = 'mmpretrain::_base_/default_runtime.py'
_OWN = 'serkd_mm::_base_/default_runtime.py'
# Scopes are what reading a config of a package adds.
_IGNORED = ('custom_imports', '_scope_')


def missing_runtime(cfg: Config) -> dict[str, Any]:
    """Entries that give a config the package's hooks and logs.

    Where a config has values of its own, that are not MMPretrain's defaults,
    they stay.

    Args:
        cfg: Config that is to be the base of another.

    Returns:
        Entries for the config that builds on it, empty if it has them all.
    """
    host, own = (hub.get_config(path).to_dict() for path in (_HOST, _OWN))
    return _missing(own, host, cfg.to_dict())


def _missing(own: dict, host: dict, given: dict) -> dict:
    found = {}
    for key, value in own.items():
        if key in _IGNORED:
            continue
        there = given.get(key)
        usual = key not in given or (key in host and there == host[key])
        if isinstance(value, dict):
            part = _missing(value, host.get(key) or {}, there or {})
            if part:
                found[key] = part
        elif usual and there != value:
            found[key] = value
    return found
