# Copyright (c) The serkd_mm authors. All rights reserved.
"""Whether recorders record what their losses are to get."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import Any

from mmrazor.models.task_modules import (
    ModuleOutputsRecorder,
    ParameterRecorder,
    RecorderManager,
)
from mmrazor.models.task_modules.recorder.base_recorder import BaseRecorder
from torch import Tensor, nn

from ... import compat


class RecordVersions:
    """How often the tensors of each record had been changed when recorded.

    A network that changes a tensor in place behind a recorder, as ``x += y``
    does, gives the losses other values than the module put out. While
    ``torch.compile`` traces, nothing is noted and nothing is found.
    """

    def __init__(self) -> None:
        self._noted: dict[BaseRecorder, list[list[int | None]]] = {}

    def note(
        self, recorders: Iterable[BaseRecorder], model: nn.Module
    ) -> None:
        """Note the versions of what is recorded from now on.

        Args:
            recorders: Recorders that ``model`` has the hooks of.
            model: The network that they record from.
        """
        for recorder in recorders:
            if isinstance(recorder, ModuleOutputsRecorder):  # or of inputs
                versions = self._noted[recorder] = []
                module = model.get_submodule(recorder.source)
                # Behind the hook that records.
                module.register_forward_hook(_version_hook(recorder, versions))

    def differ(
        self, recorder: BaseRecorder, record_idx: int, data_idx: int | None
    ) -> bool:
        """Whether a record, or its item ``data_idx``, was changed since."""
        noted = self._noted.get(recorder, [])
        if record_idx >= len(noted):  # nothing was noted while compiling
            return False
        now = _version_numbers(recorder.data_buffer[record_idx])
        changed = [a != b for a, b in zip(noted[record_idx], now)]
        return any(changed if data_idx is None else changed[data_idx:][:1])

    def clear(self) -> None:
        """Forget the versions, as the records are forgotten."""
        for versions in self._noted.values():
            versions.clear()


def is_detached(recorder: BaseRecorder, model: nn.Module) -> bool:
    """Whether the module of this name is not the one that is recorded.

    Args:
        recorder: A recorder that was attached to the network.
        model: The network.
    """
    if not isinstance(recorder, ModuleOutputsRecorder):  # or of inputs
        return False
    hooks = model.get_submodule(recorder.source)._forward_hooks.values()
    return recorder.forward_hook not in hooks


def check_sources(
    recorders: RecorderManager, model: nn.Module, side: str
) -> None:
    """Check each recorder's source with :func:`check_source`."""
    for name, recorder in recorders.recorders.items():
        check_source(name, recorder, model, side)


def check_source(
    name: str, recorder: BaseRecorder, model: nn.Module, side: str
) -> None:
    """Name the nearest modules or parameters when a source is unknown.

    Args:
        name: Name of the recorder.
        recorder: The recorder.
        model: The network that it is to record from.
        side: ``'student'`` or ``'teacher'``.

    Raises:
        ValueError: If the network has no such module or parameter.
    """
    if isinstance(recorder, ParameterRecorder):
        kind, known = 'parameter', model.named_parameters()
    elif isinstance(recorder, ModuleOutputsRecorder):  # or of inputs
        kind, known = 'module', model.named_modules()
    else:
        return
    names = [known_name for known_name, _ in known]
    if recorder.source in names:  # '' is the network itself
        return
    near = difflib.get_close_matches(
        str(recorder.source), filter(None, names), n=3, cutoff=0
    )
    told = ''
    if str(recorder.source).endswith('head_dist'):
        told = (
            'that is the head of a distillation token, which '
            'DistilledVisionTransformer with DeiTDistillHead or DeiTClsHead '
            'has; '
        )
    raise ValueError(
        f'source {recorder.source!r} of {side} recorder {name!r} is no {kind} '
        f'of the {side} ({type(model).__name__}); {told}nearest names: '
        f'{", ".join(near)}; change distiller.{side}_recorders.{name}.source'
    )


def _version_hook(
    recorder: ModuleOutputsRecorder, versions: list[list[int | None]]
) -> Callable[[nn.Module, Any, Any], None]:
    """Hook that notes how often what was just recorded had been changed."""

    def note(module: nn.Module, args: Any, output: Any) -> None:
        # Asked for versions, torch.compile would break its graph.
        if recorder.recording and not compat.is_compiling():
            last = len(recorder.data_buffer) - 1
            versions[last:] = [_version_numbers(recorder.data_buffer[last])]

    return note


def _version_numbers(record: Any) -> list[int | None]:
    """How often each tensor of a record was changed in place."""
    items = record if isinstance(record, (tuple, list)) else [record]
    return [
        item._version
        if isinstance(item, Tensor) and not item.is_inference()
        else None
        for item in items
    ]
