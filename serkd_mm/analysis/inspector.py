# Copyright (c) The serkd_mm authors. All rights reserved.
"""What recorders catch, what connectors make of it, what losses it gives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.model import BaseModel
from mmrazor.models.distillers import ConfigurableDistiller
from torch import Tensor, nn

from .. import compat
from ..functional import superpixel_grid
from ..models.algorithms.class_checks import (
    check_loss,
    check_one_hot,
)
from ..models.algorithms.renormalize import Renormalize
from ..models.connectors import SuperpixelTokenizer, TokenMap, VisualTokens
from ..models.distillers.record_checks import check_source
from ..models.heads.check_head import head_widths_named
from .findings import PairReport, Record, Tokens
from .gradients import measure_losses, scalar
from .stack import call_stack, shape_of

SIDES = ('student', 'teacher')
_PLACES = {'student': 'model.architecture', 'teacher': 'model.teacher'}


class PairInspector:
    """Runs a batch through both networks and follows every record.

    Args:
        distiller: Distiller whose recorders are not attached yet.
        student: Student, on the same device.
        teacher: Teacher.
        report: Takes what is found.
    """

    def __init__(
        self,
        distiller: ConfigurableDistiller,
        student: BaseModel,
        teacher: BaseModel,
        report: PairReport,
    ) -> None:
        self.distiller = distiller
        self.networks = dict(student=student, teacher=teacher)
        self.report = report
        self.failed: set[str] = set()
        self.connected: dict[tuple, Any] = {}

    def run(self, data: dict) -> None:
        """Try everything on a batch as a data loader hands it over."""
        for side, network in self.networks.items():
            compat.disable_inplace(network)
            self._attach(side, network)
        losses = self._forward(data)
        self._describe_records()
        for name in self.distiller.loss_forward_mappings:
            value = self._loss(name)
            if value is not None:
                losses[f'distill.{name}'] = value
        student = self.networks['student']
        measure_losses(losses, self.distiller, student, self.report)
        for side in SIDES:
            for recorder in self._recorders(side).values():
                recorder.reset_data_buffer()

    def _recorders(self, side: str) -> dict[str, Any]:
        return getattr(self.distiller, f'{side}_recorders').recorders

    def _attach(self, side: str, network: nn.Module) -> None:
        """Attach the recorders that have a source; drop the others."""
        for name, recorder in list(self._recorders(side).items()):
            try:
                check_source(name, recorder, network, side)
                recorder.initialize(network)
            except Exception as error:
                key = f'model.distiller.{side}_recorders.{name}.source'
                self.report.problem(key, error)
                del self._recorders(side)[name]

    def _forward(self, data: dict) -> dict[str, Tensor]:
        """Run both networks; losses of the student on the labels."""
        student, teacher = self.networks['student'], self.networks['teacher']
        student.train()
        teacher.eval()
        try:
            check_one_hot(student.data_preprocessor, student)
            batch = student.data_preprocessor(data, training=True)
        except Exception as error:
            self.failed.update(SIDES)
            self.report.problem('data_preprocessor', error)
            return {}
        inputs, samples = batch['inputs'], batch['data_samples']
        change = Renormalize.between(
            student.data_preprocessor,
            getattr(teacher, 'data_preprocessor', None),
        )
        with torch.no_grad(), self._recording('teacher'):
            images = inputs
            if change is not None:
                images = change.to(inputs.device)(inputs)
            teacher(images, samples)
        losses: dict[str, Tensor] = {}
        with self._recording('student'):
            losses = student(inputs, samples, mode='loss')
        return {
            f'student.{name}': scalar(value)
            for name, value in losses.items()
            if 'loss' in name
        }

    @contextmanager
    def _recording(self, side: str) -> Iterator[None]:
        """Record; a network that fails is a problem, with its module."""
        recorders = getattr(self.distiller, f'{side}_recorders')
        self.distiller.set_deliveries_override(side == 'student')
        network = self.networks[side]
        widths = head_widths_named(_PLACES[side], network)
        with call_stack(network) as stack:
            try:
                with widths, recorders, self.distiller.deliveries:
                    yield
            except torch.cuda.OutOfMemoryError:
                raise  # of the batch, not of the module that met it
            except Exception as error:
                self.failed.add(side)
                where = stack[-1] if stack else ''
                key = f'{_PLACES[side]}.{where.split(".")[0]}'.rstrip('.')
                self.report.problem(
                    key,
                    f'does not run, in {where or "its forward"}: '
                    f'{type(error).__name__}: {error}',
                )

    def _loss(self, name: str) -> Tensor | None:
        """A loss of the distiller, None where something does not fit."""
        mapping = self.distiller.loss_forward_mappings[name]
        preprocessor = self.networks['student'].data_preprocessor
        try:
            check_loss(
                name,
                self.distiller,
                **self.networks,
                preprocessor=preprocessor,
            )
        except ValueError as error:
            key = f'model.distiller.distill_losses.{name}'
            self.report.problem(key, error)
            return None
        arguments = {key: self._connect(r) for key, r in mapping.items()}
        if any(value is None for value in arguments.values()):
            return None
        try:
            loss = scalar(self.distiller.distill_losses[name](**arguments))
        except Exception as error:
            self.report.problem(*_misfit(name, mapping, arguments, error))
            return None
        return loss

    def _connect(self, record: dict) -> Any:
        """A record behind its connectors, None where it fails."""
        side = 'student' if record['from_student'] else 'teacher'
        name, connector = record['recorder'], record.get('connector')
        if side in self.failed or name not in self._recorders(side):
            return None
        place = {
            k: record[k] for k in ('record_idx', 'data_idx') if k in record
        }
        key = (side, name, *place.items(), connector)
        if key not in self.connected:
            try:
                value = self.distiller.get_record(
                    name, record['from_student'], **place
                )
            except Exception as error:
                where = f'model.distiller.{side}_recorders.{name}.source'
                self.report.problem(where, error)
                value = None
            if value is not None and connector:
                value = self._follow(side, name, connector, value)
            self.connected[key] = value
        value, index = self.connected[key], record.get('connector_idx')
        return value if value is None or index is None else value[index]

    def _follow(self, side: str, name: str, connector: str, value: Any) -> Any:
        """Pass a record through its connectors, one after the other."""
        module = self.distiller.connectors[connector]
        chain = module if isinstance(module, nn.Sequential) else [module]
        tokens = Tokens(side, name, connector)
        for index, part in enumerate(chain):
            if isinstance(part, VisualTokens) and value.dim() == 3:
                tokens.prefix = part.num_prefix_tokens
            if isinstance(part, SuperpixelTokenizer) and tokens.grid:
                tokens.superpixels = superpixel_grid(
                    tokens.grid, part.grid_size
                )
            try:
                with torch.set_grad_enabled(side == 'student'):
                    value = part(value)
            except Exception as error:
                at = f'[{index}]' if len(chain) > 1 else ''
                key = f'model.distiller.connectors.{connector}{at}'
                self.report.problem(key, error)
                return None
            if isinstance(value, TokenMap):
                tokens.grid = value.hw
        tokens.shape = shape_of(value)
        self.report.tokens.append(tokens)
        if tokens.superpixels and tokens.superpixels == tokens.grid:
            self.report.notes.append(
                f'Superpixels of {connector!r} are single tokens; a larger '
                'grid_size of SuperpixelTokenizer groups them.'
            )
        return value

    def _describe_records(self) -> None:
        used = {
            (record['from_student'], record['recorder'])
            for mapping in self.distiller.loss_forward_mappings.values()
            for record in mapping.values()
        }
        for side in SIDES:
            for name, recorder in self._recorders(side).items():
                for value in recorder.data_buffer:
                    record = Record(
                        side, name, recorder.source, shape_of(value)
                    )
                    self.report.records.append(record)
                if (side == 'student', name) not in used:
                    self.report.notes.append(
                        f'No loss uses the {side} recorder {name!r}.'
                    )


def _misfit(
    name: str, mapping: dict, arguments: dict[str, Any], error: Exception
) -> tuple[str, str]:
    """Which key to change when a loss cannot be computed, and why."""
    shapes = [shape_of(value) for value in arguments.values()]
    said = ', '.join(f'{k} {shape_of(v)}' for k, v in arguments.items())
    connectors = [r.get('connector') for r in mapping.values()]
    key = f'model.distiller.distill_losses.{name}'
    if all(connectors) and len({s[:2] for s in shapes}) > 1:
        key = f'model.distiller.connectors.{" or .".join(connectors)}'
    elif len(set(shapes)) > 1 and all(len(s) == 2 for s in shapes):
        return key, (
            f'compares other classes ({said}); take a teacher of the '
            f"student's classes, or leave {name} out"
        )
    return key, f'{error} ({said})'
