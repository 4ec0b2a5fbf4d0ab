# Copyright (c) The serkd_mm authors. All rights reserved.
"""Beside what others offer: SeRKD through MMRazor's own classes, plain KD
and RKD through other libraries.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from functools import partial
from typing import Any

from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmrazor.models.algorithms import SingleTeacherDistill as Algorithm
from torch import Tensor

from . import (
    libraries,
    library_kd,
    library_rkd,
    networks,
    step,
    straightforward,  # noqa: F401  (registers losses)
)
from .libraries import CONFIG, HOST, OURS
from .measure import Options, Run
from .report import Report, Table, bars

# MMRazor's classes with the losses of this package.
MIXED = f'{HOST}, these losses'
VARIANTS = (HOST, MIXED, OURS)
ROUNDS = 15


def run(options: Options) -> Report:
    """Speed, memory and behaviour side by side."""
    report = Report('peers', options)
    common: dict[str, Any] = dict(device=options.device, quick=options.quick)
    batch = step.batch_size(options)
    memory = step.memory_of_steps(prepare, VARIANTS, common, options)
    built = {variant: build(variant, **common) for variant in VARIANTS}
    for variant in (HOST, MIXED):
        networks.share_weights(built[OURS][0], built[variant][0])
    deviations = _deviations(built, batch)
    steps = {
        variant: networks.algorithm_step(model, cfg, options.device)
        for variant, (model, cfg) in built.items()
    }
    cfg = built[OURS][1]
    times = step.time_steps(steps, cfg, options, ROUNDS)
    report.data['ms'] = times
    rows = [
        step.step_row('DeiT-Ti', v, times, HOST, memory[v], batch)
        for v in VARIANTS
    ]
    report.tables += [
        Table('SeRKD step, DeiT-Ti student', rows),
        deviations,
    ]
    del built, steps
    report.notes += step.describe(options)
    report.notes += [
        f'SeRKD: {HOST} is SingleTeacherDistill and ConfigurableDistiller '
        'with losses from difference tensors, connectors called for every '
        f'loss; {MIXED} has the relation losses of this package in their '
        f'place; {OURS} is FrozenTeacherDistill and SeRKDDistiller. Networks, '
        'data, connectors, feature and KD loss are the same.',
        f'Ratio of SeRKD steps: time over {HOST} in the same round, median '
        'and quartiles.',
    ]
    add_libraries(report)
    report.draw = partial(_draw, report)
    return report


def add_libraries(report: Report) -> None:
    """Add the tables of KD and RKD, and notes on how they were measured."""
    report.tables += [
        library_kd.kd_table(report),
        library_rkd.rkd_table(report),
    ]
    report.notes += libraries.describe()


def _draw(report: Report, figure: Any) -> None:
    """One axis per table of times, logarithmic where they differ much."""
    timed = [t for t in report.tables if 'median ms' in t.rows[0]]
    for axis, table in zip(figure.subplots(len(timed)), timed):
        times = [row['median ms'] for row in table.rows]
        group = next(iter(table.rows[0]))
        bars(axis, table.rows, group, log=max(times) > 10 * min(times))
        axis.set_title(table.title, fontsize=9)


def build(variant: str, device: str, quick: bool) -> tuple[Algorithm, Any]:
    """The algorithm of a variant and its config."""
    cfg = networks.load_config(CONFIG, quick)
    if variant != OURS:
        networks.through_host(cfg.model)
    if variant == HOST:
        losses = cfg.model.distiller.distill_losses
        losses.loss_distance.type = 'StraightforwardDistanceLoss'
        losses.loss_angle.type = 'StraightforwardAngleLoss'
    return networks.build_model(cfg, device), cfg


def prepare(variant: str, device: str, quick: bool, batch: int) -> Run:
    """Two steps, for memory."""
    model, cfg = build(variant, device, quick)
    one_step = networks.algorithm_step(model, cfg, device)
    return step.two_steps(one_step, cfg, batch)


def _deviations(built: dict[str, tuple], batch: int) -> Table:
    """What differs beside speed, one column per variant."""
    found = {
        variant: behaviour(model, cfg, batch)
        for variant, (model, cfg) in built.items()
    }
    rows = [
        {'behaviour': key, **{v: found[v][key] for v in VARIANTS}}
        for key in found[OURS]
    ]
    return Table('Behaviour', rows)


def behaviour(model: Algorithm, cfg: Any, batch: int) -> dict[str, Any]:
    """What an algorithm does with its teacher and its records.

    Args:
        model: Algorithm in training mode.
        cfg: Its config.
        batch: Number of images to look at.
    """
    teacher = model.teacher
    logits: list[Tensor] = []
    calls: list[int] = []
    hooks = [teacher.head.fc.register_forward_hook(
        lambda module, inputs, output: logits.append(output.detach())
    )]  # fmt: skip
    hooks += [
        connector.register_forward_hook(lambda *_: calls.append(1))
        for connector in model.distiller.connectors.values()
    ]
    data = networks.random_batch(cfg, batch, 0)
    data = model.data_preprocessor(data, training=True)
    for _ in range(2):
        losses = model(**data, mode='loss')
    for hook in hooks:
        hook.remove()
    return {
        'teacher module in train mode': teacher.training,
        'teacher logits of one batch, two forwards: largest difference': float(
            (logits[0] - logits[1]).abs().max()
        ),
        'connector calls per step': len(calls) // 2,
        'teacher tensors in a checkpoint': sum(
            key.startswith('teacher.') for key in model.state_dict()
        ),
        'teacher tensors in the optimizer': _in_optimizer(model, cfg),
        'MiB of records held after a step': _held(model) / 2**20,
        'copy.deepcopy after a training step': _copied(model, cfg, batch),
        **{
            f'{name}, same weights and batch': v.item()
            for name, v in losses.items()
            if 'loss' in name
        },
    }


def _in_optimizer(model: Algorithm, cfg: Any) -> int:
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        wrapper = build_optim_wrapper(model, copy.deepcopy(cfg.optim_wrapper))
    theirs = {id(p) for p in model.teacher.parameters()}
    groups = wrapper.optimizer.param_groups
    return sum(id(p) in theirs for g in groups for p in g['params'])


def _held(model: Algorithm) -> int:
    """Bytes in the recorders."""
    distiller = model.distiller
    records = [
        record
        for manager in (
            distiller.student_recorders,
            distiller.teacher_recorders,
        )
        for recorder in manager.recorders.values()
        for record in recorder.data_buffer
    ]
    return sum(t.numel() * t.element_size() for t in _tensors(records))


def _tensors(records: Any) -> Iterable[Tensor]:
    if isinstance(records, Tensor):
        yield records
    elif isinstance(records, (list, tuple)):
        for record in records:
            yield from _tensors(record)


def _copied(model: Algorithm, cfg: Any, batch: int) -> str:
    """Whether a model can be copied after a step with gradients."""
    data = networks.random_batch(cfg, batch, 0)
    model(**model.data_preprocessor(data, training=True), mode='loss')
    try:
        copy.deepcopy(model)
    except RuntimeError as error:
        return f'{type(error).__name__}'
    return 'works'
