# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

import logging
from collections.abc import Mapping

from mmengine.logging import print_log
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

_TRAINS = "model.distiller.type='ConfigurableDistiller' trains it"


def check_fixed(connectors: Mapping[str, nn.Module]) -> None:
    """Say which connectors keep parameters; refuse norms without statistics.

    Args:
        connectors: Those of teacher records alone, by name, when training
            begins and their checkpoint, if any, is loaded.

    Raises:
        ValueError: If the running statistics of one are of no batch.
    """
    for name, connector in connectors.items():
        for part in connector.modules():
            if isinstance(part, _NormBase) and _saw_nothing(part):
                raise ValueError(
                    f'connector {name!r} ({type(connector).__name__}) of '
                    'teacher records is not trained here, and its '
                    f'{type(part).__name__} has seen no batch, so it would '
                    'normalise nothing; set affine=False, '
                    'track_running_stats=False there to normalise by each '
                    f'batch, load its weights (init_cfg), or {_TRAINS}'
                )
        if next(connector.parameters(), None) is not None:
            print_log(
                f'Connector {name!r} ({type(connector).__name__}) sees '
                'teacher records alone and keeps the parameters that it was '
                f'initialised with or that were loaded; {_TRAINS}.',
                logger='current',
                level=logging.WARNING,
            )


def _saw_nothing(norm: _NormBase) -> bool:
    seen = norm.num_batches_tracked
    return seen is not None and int(seen) == 0
