# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from mmrazor.models.distillers import ConfigurableDistiller
from mmrazor.models.task_modules import (
    ModuleOutputsRecorder,
    RecorderManager,
)
from mmrazor.models.task_modules.recorder.base_recorder import BaseRecorder
from mmrazor.registry import MODELS
from torch import Tensor, nn

from ...functional.scale import at_least_float32
from .. import losses
from .check_mappings import check_blocks, check_mappings
from .fixed_connectors import check_fixed
from .record_checks import RecordVersions, check_sources, is_detached

# They take half precision as it comes, whose rounding they know of.
_OWN_LOSSES = tuple(getattr(losses, name) for name in losses.__all__)

# Errors that get the name of the loss or connector that they are from.
_NAMED = (RuntimeError, TypeError, ValueError)


@MODELS.register_module()
class SeRKDDistiller(ConfigurableDistiller):
    """Configurable distiller that connects every record once.

    Beyond :class:`mmrazor.ConfigurableDistiller`, whose configuration it
    shares: a connector runs once per step for a record, however many losses
    use the result; connectors of teacher records run without gradient;
    records are released as soon as the losses are computed. Losses of other
    packages that have no parameters are computed in float32 with autocast
    off: MMRazor's take a softmax of bfloat16 logits in bfloat16 on CPUs, which
    leaves little of a small divergence. Connectors that
    only teacher records pass through keep the parameters that they are
    initialised with or that a checkpoint has for them, and are always in eval
    mode. The first training step says which have any, and refuses a batch norm
    of them that has seen no batch: it would pass records through as they are.

    Args:
        kwargs: Arguments of :class:`mmrazor.ConfigurableDistiller`.

    Raises:
        TypeError: If a part of the configuration has a wrong type.
        ValueError: If a loss has no entry there, an entry names what does not
            exist, or a recorder's source is no module of the model.
    """

    def __init__(self, **kwargs: Any) -> None:
        check_blocks(kwargs)
        super().__init__(**kwargs)
        self._connected: dict[tuple, Any] | None = None
        self._checked_fixed = False
        self._versions = RecordVersions()
        # While the student runs for losses that are to train it.
        self.student_learns = False
        unmapped = set(self.distill_losses) - set(self.loss_forward_mappings)
        if unmapped:
            raise ValueError(
                f'distill_losses {sorted(unmapped)} have no entry in '
                'loss_forward_mappings, so they would never be computed; map '
                'their arguments to recorders or remove them'
            )
        for connector in self._fixed_connectors().values():
            connector.requires_grad_(False)

    def _check_loss_forward_mappings(
        self,
        losses: nn.ModuleDict,
        loss_forward_mappings: dict[str, dict],
        student_recorders: RecorderManager,
        teacher_recorders: RecorderManager,
    ) -> None:
        recorders = {
            True: student_recorders.recorders,
            False: teacher_recorders.recorders,
        }
        check_mappings(
            loss_forward_mappings, losses, recorders, self.connectors
        )

    def prepare_from_student(self, model: nn.Module) -> None:
        """Attach the student's recorders, ``model`` being the student."""
        check_sources(self.student_recorders, model, 'student')
        super().prepare_from_student(model)
        self._watch(model, self.student_recorders.recorders)

    def attach_again(self, model: nn.Module) -> None:
        """Attach the recorders of modules that were replaced.

        As ``sync_bn`` replaces batch norm, and its hooks with it, after the
        algorithm was built.

        Args:
            model: The student.
        """
        replaced = {
            name: recorder
            for name, recorder in self.student_recorders.recorders.items()
            if is_detached(recorder, model)
        }
        for recorder in replaced.values():
            recorder.prepare_from_model(model)
        self._watch(model, replaced)

    def _watch(
        self, student: nn.Module, recorders: dict[str, BaseRecorder]
    ) -> None:
        """Look at what is recorded of the student, and when."""
        self._versions.note(recorders.values(), student)
        for name, recorder in recorders.items():
            if isinstance(recorder, ModuleOutputsRecorder):
                module = student.get_submodule(recorder.source)
                module.register_forward_pre_hook(self._graph_check(name))

    def _graph_check(self, name: str) -> Callable[[nn.Module, tuple], None]:
        """Hook that refuses to record what no loss could train."""
        source = self.student_recorders.get_recorder(name).source

        # A function: a deep copy of the model would copy a bound method.
        def check(module: nn.Module, args: tuple) -> None:
            if self.student_learns and not torch.is_grad_enabled():
                raise RuntimeError(
                    f'student recorder {name!r} would record {source!r} '
                    'without gradients, as it runs inside a module under '
                    'activation checkpointing, and its losses would train '
                    'nothing; record the module that is checkpointed, or '
                    'leave activation_checkpointing (with_cp) out for it'
                )

        return check

    def prepare_from_teacher(self, model: nn.Module) -> None:
        """Attach the teacher's recorders, ``model`` being the teacher."""
        check_sources(self.teacher_recorders, model, 'teacher')
        super().prepare_from_teacher(model)
        self._versions.note(self.teacher_recorders.recorders.values(), model)

    def compute_distill_losses(self) -> dict[str, Tensor]:
        """Compute the mapped losses, then release all records.

        Returns:
            One scalar per entry of ``loss_forward_mappings``.
        """
        if self.training and not self._checked_fixed:
            check_fixed(self._fixed_connectors())
            self._checked_fixed = True
        self._connected = {}
        computed = {}
        try:
            # The host's loop, with the precision and the name of each loss.
            for name, mapping in self.loss_forward_mappings.items():
                arguments = {
                    argument: self.get_record(**record)
                    for argument, record in mapping.items()
                }
                try:
                    loss = _compute(self.distill_losses[name], arguments)
                except _NAMED as error:
                    _begin_with(f'loss {name!r}', error)
                    raise
                computed[name] = loss
            return computed
        finally:
            self._connected = None
            self.release_records()

    def release_records(self) -> None:
        """Forget what the recorders hold, so that it can be freed."""
        for manager in (self.student_recorders, self.teacher_recorders):
            for recorder in manager.recorders.values():
                recorder.reset_data_buffer()
        self._versions.clear()

    def get_record(
        self,
        recorder: str,
        from_student: bool,
        record_idx: int = 0,
        data_idx: int | None = None,
        connector: str | None = None,
        connector_idx: int | None = None,
    ) -> Any:
        """Look a record up and pass it through its connector.

        Args:
            recorder: Name of the recorder.
            from_student: Whether it is one of the student's recorders.
            record_idx: Which of several records of one forward.
            data_idx: Which item of a record that is a sequence.
            connector: Name of the connector, if any.
            connector_idx: Which item of the connector's output.

        Raises:
            RuntimeError: If the recorder holds too few records, or the
                network has changed this one in place.
            ValueError: If a record, or what the connector gave, has no such
                item.
        """
        key = (recorder, from_student, record_idx, data_idx, connector)
        cached = self._connected if self._connected is not None else {}
        if key not in cached:
            self._check_recorded(recorder, from_student, record_idx, data_idx)
            grad = torch.is_grad_enabled() and from_student
            with torch.set_grad_enabled(grad):
                try:
                    cached[key] = super().get_record(*key)
                except _NAMED as error:
                    title = self._recorder_title(recorder, from_student)
                    if connector:
                        title = f'connector {connector!r} of {title}'
                    _begin_with(title, error)
                    raise
        record = cached[key]
        if connector_idx is None:
            return record
        if not isinstance(record, (tuple, list)):
            raise ValueError(
                f'connector {connector!r} gave one {type(record).__name__}, '
                f'of which connector_idx={connector_idx} picks nothing; leave '
                'connector_idx out'
            )
        if not -len(record) <= connector_idx < len(record):
            raise ValueError(
                f'connector {connector!r} gave {len(record)} items, '
                f'connector_idx={connector_idx} is none of them'
            )
        return record[connector_idx]

    def _recorder(self, name: str, from_student: bool) -> BaseRecorder:
        if from_student:
            return self.student_recorders.get_recorder(name)
        return self.teacher_recorders.get_recorder(name)

    def _recorder_title(self, name: str, from_student: bool) -> str:
        side = 'student' if from_student else 'teacher'
        source = self._recorder(name, from_student).source
        return f'{side} recorder {name!r} (source {source!r})'

    def _check_recorded(
        self,
        recorder: str,
        from_student: bool,
        record_idx: int,
        data_idx: int | None,
    ) -> None:
        side = 'student' if from_student else 'teacher'
        source = self._recorder(recorder, from_student)
        name = self._recorder_title(recorder, from_student)
        count = len(source.data_buffer)
        if not -count <= record_idx < count:
            cure = f'name a source in {side}_recorders that the {side} runs'
            if 'loss_module' in source.source and not from_student:
                cure = (
                    'the teacher runs no loss here, so take labels from the '
                    "student's 'head.loss_module'"
                )
            raise RuntimeError(
                f'{name} recorded {count} outputs in this forward, record_idx='
                f'{record_idx} needs {_needed(record_idx)}; {cure}'
            )
        if self._versions.differ(source, record_idx, data_idx):
            raise RuntimeError(
                f'{name} recorded a tensor that the {side} then changed in '
                'place (as `x += y` does), so the loss would get other values '
                'than the module put out; record the module around it, such '
                'as its whole block, or write `x = x + y` there'
            )
        if data_idx is None:
            return
        record = source.data_buffer[record_idx]
        if not isinstance(record, (tuple, list)):
            raise ValueError(
                f'{name} recorded one {type(record).__name__}, of which '
                f'data_idx={data_idx} picks nothing; leave data_idx out'
            )
        if not -len(record) <= data_idx < len(record):
            raise ValueError(
                f'{name} recorded {len(record)} items, data_idx={data_idx} '
                f'needs {_needed(data_idx)}; let the backbone output this '
                'stage too (out_indices), or record its module, such as '
                "'backbone.layer3'"
            )

    def train(self, mode: bool = True) -> SeRKDDistiller:
        """Set the mode; what no student record passes through stays in eval.

        Averages of batches and dropout would make other targets of the same
        teacher.
        """
        super().train(mode)
        for connector in self._fixed_connectors().values():
            connector.eval()
        return self

    def _fixed_connectors(self) -> dict[str, nn.Module]:
        """The connectors that no student record passes through."""
        of_student = {
            record.get('connector')
            for mapping in self.loss_forward_mappings.values()
            for record in mapping.values()
            if record['from_student']
        }
        return {
            name: connector
            for name, connector in self.connectors.items()
            if name not in of_student
        }


def _compute(loss: nn.Module, arguments: dict[str, Any]) -> Tensor:
    """A loss in the precision that it needs."""
    own = isinstance(loss, _OWN_LOSSES)
    if own or next(loss.parameters(), None) is not None:
        return loss(**arguments)
    floating = {
        argument: at_least_float32(value)
        for argument, value in arguments.items()
        if isinstance(value, Tensor) and value.is_floating_point()
    }
    if not floating:
        return loss(**arguments)
    device = next(iter(floating.values())).device.type
    with torch.autocast(device, enabled=False):
        return loss(**{**arguments, **floating})


def _needed(index: int) -> int:
    """Length of the shortest sequence that has an item of that index."""
    return index + 1 if index >= 0 else -index


def _begin_with(title: str, error: Exception) -> None:
    """Let the message of an error begin with what it is about."""
    said = error.args[0] if error.args else ''
    error.args = (f'{title}: {said}', *error.args[1:])
