# Copyright (c) The serkd_mm authors. All rights reserved.
"""Runs that are resumed with another length or another schedule."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.optim import CosineAnnealingLR, LinearLR

from serkd_mm.engine.schedule import fast_forward, replan
from tests.engine.runs import (
    BATCH,
    EPOCHS,
    STEPS,
    Points,
    build_runner,
    log_of,
    validation,
)

WARMUP = dict(
    type='LinearLR', start_factor=0.1, end=1, convert_to_iter_based=True
)
COSINE = dict(type='CosineAnnealingLR', begin=1, by_epoch=True)
EVERY_SECOND = dict(by_epoch=False, interval=2)


def rates(
    work_dir: Path,
    epochs: int = EPOCHS,
    schedule: Any = (WARMUP, COSINE),
    checkpoint: dict | None = None,
    **overrides: Any,
) -> list[float]:
    """Learning rates of the iterations of a run."""
    seen: list[float] = []

    class See(Hook):
        def after_train_iter(self, runner: Any, *_: Any, **__: Any) -> None:
            seen.append(runner.optim_wrapper.get_lr()['lr'][0])

    # Before the schedulers step.
    See.priority = 'ABOVE_NORMAL'
    overrides.setdefault('train_cfg', dict(by_epoch=True, max_epochs=epochs))
    build_runner(
        work_dir,
        hooks=dict(
            checkpoint={**EVERY_SECOND, **(checkpoint or {})},
            resume=dict(type='ExactResumeHook'),
            see=See(),
        ),
        param_scheduler=[dict(scheduler) for scheduler in schedule],
        **overrides,
    ).train()
    return seen


@pytest.fixture(scope='module')
def default_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work_dir = tmp_path_factory.mktemp('default') / 'old'
    rates(work_dir)
    return work_dir


def resumed(
    old: Path, tmp_path: Path, stop: int, **overrides: Any
) -> list[float]:
    """Learning rates after an iteration of an old run."""
    return rates(
        tmp_path / 'new',
        resume=True,
        load_from=str(old / f'iter_{stop}.pth'),
        **overrides,
    )


def settings_at(work_dir: Path, iteration: int) -> list[list[float]]:
    """Rates of all groups in a checkpoint, then that which MMEngine logs."""
    saved = torch.load(work_dir / f'iter_{iteration}.pth')['optimizer']
    base = saved.get('base_param_settings')
    groups = [*saved['param_groups'], *([base] if base else [])]
    return [[group['lr'], group['initial_lr']] for group in groups]


@pytest.mark.parametrize('epochs', [EPOCHS - 1, 2 * EPOCHS])
@pytest.mark.parametrize('stop', [2, STEPS, STEPS + 2])
def test_another_length_is_planned_anew(
    default_run: Path, tmp_path: Path, epochs: int, stop: int
) -> None:
    expected = rates(tmp_path / 'straight', epochs)

    assert (
        resumed(default_run, tmp_path, stop, epochs=epochs) == expected[stop:]
    )
    log = log_of(tmp_path / 'new')
    assert 'Learning rates follow the config' in log
    assert f'T_max {EPOCHS - 1} -> {epochs - 1}' in log


def test_a_run_that_had_ended_goes_on(
    default_run: Path, tmp_path: Path
) -> None:
    expected = rates(tmp_path / 'straight', 2 * EPOCHS)

    rest = resumed(default_run, tmp_path, EPOCHS * STEPS, epochs=2 * EPOCHS)

    assert rest == expected[EPOCHS * STEPS :]


def test_the_same_plan_is_kept_without_a_word(
    default_run: Path, tmp_path: Path
) -> None:
    resumed(default_run, tmp_path, STEPS + 2)

    assert 'follow the config' not in log_of(tmp_path / 'new')


def test_another_rate_of_the_config_is_followed(
    default_run: Path, tmp_path: Path
) -> None:
    optimizer = dict(optimizer=dict(type='SGD', lr=0.3, momentum=0.9))
    expected = rates(tmp_path / 'straight', optim_wrapper=optimizer)

    rest = resumed(default_run, tmp_path, STEPS + 2, optim_wrapper=optimizer)

    assert rest == expected[STEPS + 2 :]
    assert 'base_values' in log_of(tmp_path / 'new')
    straight, new = (
        settings_at(tmp_path / name, EPOCHS * STEPS)
        for name in ('straight', 'new')
    )
    assert straight == new


def test_groups_with_rates_of_their_own_too(tmp_path: Path) -> None:
    """MMEngine logs a base rate beside those of the groups then."""
    optimizer = dict(
        optimizer=dict(type='SGD', lr=0.1, momentum=0.9),
        paramwise_cfg=dict(bias_lr_mult=2.0),
    )
    rates(tmp_path / 'old', optim_wrapper=optimizer)
    rates(tmp_path / 'straight', 2 * EPOCHS, optim_wrapper=optimizer)

    resumed(
        tmp_path / 'old',
        tmp_path,
        2 * STEPS + 2,
        epochs=2 * EPOCHS,
        optim_wrapper=optimizer,
    )

    straight, new = (
        settings_at(tmp_path / name, 2 * EPOCHS * STEPS - 2)
        for name in ('straight', 'new')
    )
    assert len(straight) == 3
    assert straight == new


def test_a_checkpoint_without_schedulers_does_not_warm_up_again(
    tmp_path: Path,
) -> None:
    expected = rates(
        tmp_path / 'old', checkpoint=dict(save_param_scheduler=False)
    )

    assert (
        resumed(tmp_path / 'old', tmp_path, STEPS + 2) == expected[STEPS + 2 :]
    )


def test_an_iteration_based_run_is_planned_anew(tmp_path: Path) -> None:
    cosine = dict(type='CosineAnnealingLR', by_epoch=False)

    def cfg(iterations: int) -> dict:
        loop = dict(by_epoch=False, max_iters=iterations)
        return dict(train_cfg=loop, schedule=[cosine])

    expected = rates(tmp_path / 'straight', **cfg(4))
    rates(tmp_path / 'old', **cfg(3))

    assert resumed(tmp_path / 'old', tmp_path, 2, **cfg(4)) == expected[2:]


def test_a_schedule_in_iterations_counts_those_of_another_batch_size(
    tmp_path: Path,
) -> None:
    warmup = dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=100)

    def cfg(batch_size: int) -> dict:
        loader = dict(
            batch_size=batch_size,
            num_workers=0,
            dataset=Points(),
            sampler=dict(type='DefaultSampler', shuffle=True),
        )
        return dict(train_dataloader=loader, schedule=[warmup])

    expected = rates(tmp_path / 'straight', **cfg(2 * BATCH))
    rates(tmp_path / 'old', **cfg(BATCH))

    rest = resumed(tmp_path / 'old', tmp_path, STEPS, **cfg(2 * BATCH))

    assert rest == expected[STEPS // 2 :]


FIXED_END = dict(type='CosineAnnealingLR', T_max=EPOCHS, end=EPOCHS)
FIXED_PERIOD = dict(type='CosineAnnealingLR', T_max=EPOCHS)


@pytest.mark.parametrize(
    ('cosine', 'message'),
    [
        (FIXED_END, 'would get stuck.*24 iterations long, it was 12.*end'),
        (FIXED_PERIOD, 'would rise again after T_max=3'),
    ],
)
def test_a_rate_that_would_get_stuck_is_refused(
    tmp_path: Path, cosine: dict, message: str
) -> None:
    rates(tmp_path / 'old', schedule=[cosine])

    with pytest.raises(ValueError, match=message):
        resumed(
            tmp_path / 'old', tmp_path, 6, schedule=[cosine], epochs=2 * EPOCHS
        )

    # Fresh runs may be as the config says.
    rates(tmp_path / 'fresh', schedule=[cosine], epochs=2 * EPOCHS)


@pytest.mark.parametrize(
    'schedule',
    [
        dict(type='LinearLR', start_factor=0.1, end=1),
        dict(type='CosineAnnealingLR', T_max=EPOCHS - 1),
    ],
    ids=['warm-up alone', 'another period'],
)
def test_a_plan_that_did_not_end_with_the_run_is_kept(
    tmp_path: Path, schedule: dict
) -> None:
    cfg = dict(schedule=[schedule], epochs=2 * EPOCHS)
    expected = rates(tmp_path / 'straight', **cfg)
    rates(tmp_path / 'old', schedule=[schedule])

    rest = resumed(tmp_path / 'old', tmp_path, 6, **cfg)

    assert rest == expected[6:]


def test_a_schedule_by_metric_cannot_be_planned_anew(tmp_path: Path) -> None:
    def cfg(factor: float) -> dict:
        plateau = dict(
            type='ReduceOnPlateauLR', monitor='score', factor=factor
        )
        overrides = validation(*[1.0] * EPOCHS)
        overrides['schedule'] = [plateau]
        return overrides

    rates(tmp_path / 'old', **cfg(0.1))

    resumed(tmp_path / 'old', tmp_path, STEPS, **cfg(0.1))
    with pytest.raises(ValueError, match='ReduceOnPlateauLR follows a metric'):
        resumed(tmp_path / 'old', tmp_path, STEPS, **cfg(0.5))


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)


def test_schedules_of_several_optimizers_are_kept_or_refused() -> None:
    old = CosineAnnealingLR(optimizer(), T_max=3, end=3).state_dict()
    same = CosineAnnealingLR(optimizer(), T_max=3, end=3)
    other = CosineAnnealingLR(optimizer(), T_max=4, end=4)
    checkpoint = dict(param_schedulers=dict(student=[old]))

    replan(
        SimpleNamespace(param_schedulers=dict(student=[same])), checkpoint, 1
    )
    with pytest.raises(ValueError, match="'student' differs.*T_max 3 -> 4"):
        replan(
            SimpleNamespace(param_schedulers=dict(student=[other])),
            checkpoint,
            1,
        )


def test_schedulers_by_epoch_and_iteration_step_in_the_loops_order() -> None:
    """Both change the rate by a factor of what it was."""
    optim = optimizer()
    by_iter = LinearLR(optim, start_factor=0.5, end=4, by_epoch=False)
    by_epoch = CosineAnnealingLR(optim, T_max=4, by_epoch=True)
    expected = optimizer()
    iterations = LinearLR(expected, start_factor=0.5, end=4, by_epoch=False)
    epochs = CosineAnnealingLR(expected, T_max=4, by_epoch=True)
    for iteration in range(1, 6):
        expected.step()
        iterations.step()
        if iteration % 2 == 0:
            epochs.step()

    fast_forward([by_iter, by_epoch], epochs=2, length=2, steps=1)

    rate = optim.param_groups[0]['lr']
    assert rate == expected.param_groups[0]['lr']
    assert by_iter.last_step == iterations.last_step
    assert by_epoch.last_step == epochs.last_step
