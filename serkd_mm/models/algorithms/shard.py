# Copyright (c) The serkd_mm authors. All rights reserved.
"""A teacher that is divided between the processes of a job."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Sequence

import torch
from mmengine.device import get_device
from mmengine.dist import get_world_size, is_distributed
from mmengine.logging import print_log
from torch import nn


def shard_teacher(teacher: nn.Module, layers: Sequence[str]) -> None:
    """Let every process keep one part of each of the teacher's parameters.

    A layer is put together where it runs and let go after it: memory is the
    teacher's over the number of processes, and one layer. What is in no layer
    counts as one more. The teacher's results are the same; each forward pass
    sends the teacher's parameters once. All processes have to run the teacher
    equally often.

    In a process of its own the teacher stays as it is.

    Args:
        teacher: Frozen teacher on the CPU; its own forward has to be the one
            that is called. Changed in place: parameters become
            ``DTensor`` on the device of this process.
        layers: Names of the modules whose children are the layers, such as
            ``backbone.layers``.

    Raises:
        RuntimeError: If this torch has no ``fully_shard``.
        ValueError: If a name is no module with children.
    """
    modules = dict(teacher.named_modules())
    for name in layers:
        if name not in modules or not list(modules[name].children()):
            known = [n for n, m in modules.items() if n and [*m.children()]]
            near = difflib.get_close_matches(name, known, n=3, cutoff=0)
            raise ValueError(
                f'teacher_shard names {name!r}, which is no module of the '
                'teacher with layers in it; nearest names: '
                f'{", ".join(near)}'
            )
    if not is_distributed():
        print_log(
            'teacher_shard does nothing in a process of its own',
            logger='current',
            level=logging.WARNING,
        )
        return
    try:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard
    except ImportError as error:
        raise RuntimeError(
            f'torch {torch.__version__} has no fully_shard; update to torch '
            '>= 2.6 or leave teacher_shard out'
        ) from error
    mesh = init_device_mesh(get_device(), (get_world_size(),))
    for name in layers:
        for layer in modules[name].children():
            fully_shard(layer, mesh=mesh)
    fully_shard(teacher, mesh=mesh, reshard_after_forward=True)


def is_sharded(network: nn.Module | None) -> bool:
    """Whether each process keeps but a part of a network."""
    parameters = () if network is None else network.parameters()
    return any(hasattr(parameter, 'full_tensor') for parameter in parameters)
