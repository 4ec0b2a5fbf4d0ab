# Copyright (c) The serkd_mm authors. All rights reserved.
"""A training step: by hand, through the algorithm, and with all losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from . import networks
from .measure import (
    PROCESSES,
    Memory,
    Options,
    Prepare,
    Run,
    interleaved,
    peak_memory,
    quartiles,
    ratios,
    timing_cells,
)
from .report import NO_CUDA, Goal, Report, Table, bars

HAND, PLAIN, FULL = 'hand-written KD', 'KD', 'SeRKD'
VARIANTS = (HAND, PLAIN, FULL)
CONFIGS = {'DeiT-Ti': 'serkd_deit-ti.py', 'DeiT-S': 'serkd_deit-s.py'}
ROUNDS = 15


def run(options: Options) -> Report:
    """Time and memory of a step for both students."""
    report = Report('step', options)
    rows: list[dict[str, Any]] = []
    for student in CONFIGS:
        rows += _compare(report, student)
    report.tables.append(Table('Training step', rows))
    by_name = {(row['student'], row['variant']): row for row in rows}
    for student in CONFIGS:
        _add_goals(report, student, by_name)
    report.notes += describe(options)
    report.notes += [
        f'{HAND}: a PyTorch loop with the same networks, AdamW in two groups '
        'and clipping; cross-entropy on the class head, KL divergence on the '
        f'distillation head. {PLAIN}: the same losses through '
        "FrozenTeacherDistill, SeRKDDistiller and MMEngine's train_step. "
        f'{FULL}: with feature, distance and angle loss.',
        f'Ratio: time over {PLAIN} in the same round, median and quartiles.',
    ]
    report.draw = lambda figure: bars(figure.subplots(), rows, 'student')
    return report


def describe(options: Options) -> list[str]:
    """Notes that all benchmarks of training steps share."""
    amp = 'bfloat16 autocast' if options.device == 'cuda' else 'float32'
    return [
        f'Batch {batch_size(options)}, {amp}; teacher ViT-B/16 with random '
        'weights, 224 pixels. Random uint8 images are made before the clock '
        'starts; preprocessing with Mixup or CutMix, forward, backward, '
        'clipping and AdamW are inside. In a round all variants get the same '
        'images and random numbers.',
        'Peak memory: above the imported package, both networks and the '
        'optimizer included; extra: above both networks, two steps. On a '
        f'CPU the median of {PROCESSES} processes; range is their largest '
        'less their smallest peak.',
    ]


def batch_size(options: Options) -> int:
    """Images per step."""
    if options.quick:
        return 2
    return 128 if options.device == 'cuda' else 4


def build_step(
    config: str, variant: str, device: str, quick: bool
) -> tuple[networks.Step, Any]:
    """A step and the config whose batches it takes.

    Args:
        config: File name of a config.
        variant: One of ``VARIANTS``.
        device: Where to.
        quick: Whether to shrink the networks.
    """
    cfg = networks.load_config(config, quick)
    if variant != FULL:
        networks.keep_losses(cfg.model, ['loss_kd'])
    model = networks.build_model(cfg, device)
    if variant == HAND:
        return networks.hand_written_step(model, cfg, device), cfg
    return networks.algorithm_step(model, cfg, device), cfg


def prepare(
    config: str, variant: str, device: str, quick: bool, batch: int
) -> Run:
    """Two steps, for memory: the first makes the optimizer's state."""
    return two_steps(*build_step(config, variant, device, quick), batch)


def two_steps(step: networks.Step, cfg: Any, batch: int) -> Run:
    """Two steps on batches of their own."""

    def run() -> None:
        for seed in range(2):
            step(networks.random_batch(cfg, batch, seed))

    return run


def memory_of_steps(
    prepare: Prepare,
    variants: Sequence[str],
    common: dict[str, Any],
    options: Options,
) -> dict[str, Memory]:
    """Peak memory of what ``prepare`` makes, by variant.

    Args:
        prepare: Takes ``common``, the variant and the batch size.
        variants: What to measure.
        common: Arguments that all variants share.
        options: Device, threads and size of a batch.
    """
    return {
        variant: peak_memory(
            prepare,
            dict(common, variant=variant, batch=batch_size(options)),
            options,
            warm=dict(quick=True, batch=2),
        )
        for variant in variants
    }


def step_row(
    student: str,
    variant: str,
    times: dict[str, list[float]],
    under: str,
    memory: Memory,
    batch: int,
) -> dict[str, Any]:
    """Speed and memory of a training step, its ratio over that of another.

    Args:
        student: What is trained.
        variant: How.
        times: Milliseconds of all variants.
        under: Variant whose time the ratio divides by.
        memory: Peak memory.
        batch: Images per step.
    """
    return {
        'student': student,
        'variant': variant,
        'images/s': 1e3 * batch / quartiles(times[variant])['median'],
        **timing_cells(times, variant, variant, under),
        **memory_cells(memory),
    }


def memory_cells(memory: Memory) -> dict[str, float]:
    """Cells of a table."""
    return {
        'peak MiB': memory.total,
        'peak range': memory.spread,
        'extra MiB': memory.extra,
    }


def time_steps(
    steps: dict[str, networks.Step], cfg: Any, options: Options, rounds: int
) -> dict[str, list[float]]:
    """Milliseconds of each step, all on the same batch in a round."""
    batch: dict[str, Any] = {}

    def new_batch(index: int) -> None:
        batch.clear()
        made = networks.random_batch(cfg, batch_size(options), index + 1)
        batch.update(made)

    runs: dict[str, Run] = {
        name: partial(step, batch) for name, step in steps.items()
    }
    repeats = options.rounds(rounds)
    # Preprocessing writes mixed labels into the samples, hence once.
    return interleaved(runs, repeats, options, before=new_batch, once=True)


def _compare(report: Report, student: str) -> list[dict[str, Any]]:
    options = report.options
    rows: list[dict[str, Any]] = []
    common: dict[str, Any] = dict(
        config=CONFIGS[student], device=options.device, quick=options.quick
    )
    memory = memory_of_steps(prepare, VARIANTS, common, options)
    built = {v: build_step(**common, variant=v) for v in VARIANTS}
    steps = {variant: step for variant, (step, _) in built.items()}
    times = time_steps(steps, built[FULL][1], options, ROUNDS)
    report.data[f'{student} ms'] = times
    for variant in VARIANTS:
        rows.append(
            {
                'student': student,
                'variant': variant,
                **timing_cells(times, variant, variant, PLAIN),
                **memory_cells(memory[variant]),
            }
        )
    if options.device == 'cuda':
        torch.cuda.empty_cache()
    return rows


def _add_goals(report: Report, student: str, rows: dict) -> None:
    hand, plain, full = (rows[student, variant] for variant in VARIANTS)
    over = ratios(
        report.data[f'{student} ms'][PLAIN], report.data[f'{student} ms'][HAND]
    )
    memory = full['peak MiB'] / plain['peak MiB']
    for what, bound, measured in (
        (f'time of {FULL} over {PLAIN}', 1.03, full['ratio']),
        (f'peak memory of {FULL} over {PLAIN}', 1.05, memory),
        (f'time of {PLAIN} over {hand["variant"]}', 1.02, over['median']),
    ):
        goal = Goal(f'{what}, {student}', bound, measured, at_least=False)
        report.goals.append(goal)
        if report.options.device != 'cuda':
            what = f'{goal.what}, CUDA, batch 128, bfloat16'
            report.goals.append(
                replace(goal, what=what, measured=None, reason=NO_CUDA)
            )
