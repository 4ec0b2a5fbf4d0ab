# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

import os.path as osp

from mmengine import hub
from mmengine.config import Config

# What MMEngine reads.
_CONFIG_FILES = ('.py', '.yml', '.yaml', '.json')


def read_config(name: str) -> Config:
    """Config of a file, or of an installed package as ``package::config``.

    Raises:
        FileNotFoundError: If it does not exist.
        ValueError: If it is no config, or a module of its ``custom_imports``
            cannot be imported.
    """
    packaged = '::' in name
    if not packaged and not osp.isfile(name):
        raise FileNotFoundError(f'config {name!r} is not a file')
    if not packaged and osp.splitext(name)[1] not in _CONFIG_FILES:
        raise ValueError(
            f'config {name!r} must be a file of {", ".join(_CONFIG_FILES)}'
        )
    try:
        return hub.get_config(name) if packaged else Config.fromfile(name)
    except ImportError as error:
        cause: BaseException = error
        while inner := cause.__cause__ or cause.__context__:
            cause = inner
        cure = (
            'put the folder of your modules (custom_imports) into PYTHONPATH'
        )
        if 'mmcls' in str(cause):
            cure = (
                'mmcls is what mmpretrain was called, so write mmpretrain in '
                'its place (mmcls::, mmcls.) in a copy of the config'
            )
        raise ValueError(
            f'config {name!r} cannot import what it needs: {cause}; {cure}'
        ) from error
