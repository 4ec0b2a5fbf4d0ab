# Copyright (c) The serkd_mm authors. All rights reserved.
"""Interrupted runs against runs that were not, bit for bit."""

from __future__ import annotations

import functools
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.hooks import EMAHook, Hook
from mmengine.logging import HistoryBuffer
from mmengine.optim.optimizer import amp_optimizer_wrapper as amp
from mmengine.runner import BaseLoop, FlexibleRunner, Runner, loops
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
)

from serkd_mm.engine.checkpoints import ResumeError
from tests.engine import runs
from tests.engine.runs import (
    build_runner,
    log_of,
    two_optimizers,
    validation,
)
from tests.jobs import free_port
from tests.models import builders

IMAGES, BATCH, EPOCHS = 10, 2, 3
LENGTH = IMAGES // BATCH
TOTAL = EPOCHS * LENGTH
PER_ITERATION = dict(by_epoch=False, interval=1)


class Augmented(Dataset):
    """Images that all three kinds of random numbers change."""

    loaded = 0

    def __len__(self) -> int:
        return IMAGES

    def __getitem__(self, index: int) -> dict:
        Augmented.loaded += 1
        pixels = torch.full((3, 32, 32), 20.0 * index)
        pixels += random.random() + np.random.rand() + torch.rand(3, 32, 32)
        label = index % builders.CLASSES
        return dict(
            inputs=pixels, data_samples=DataSample().set_gt_label(label)
        )


def stochastic_model() -> torch.nn.Module:
    student = builders.student_config(
        train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8)]),
        data_preprocessor=dict(
            type='ClsDataPreprocessor',
            num_classes=builders.CLASSES,
            mean=[120.0] * 3,
            std=[60.0] * 3,
        ),
    )
    student['backbone'].update(drop_rate=0.2, drop_path_rate=0.3)
    return MODELS.build(builders.algorithm_config(architecture=student))


def stochastic_run(
    work_dir: Path, workers: dict | None = None, **overrides: Any
) -> Any:
    """Distillation with everything on that draws or averages."""
    torch.manual_seed(0)
    overrides.setdefault(
        'train_dataloader',
        dict(
            batch_size=BATCH,
            dataset=Augmented(),
            sampler=dict(type='DefaultSampler', shuffle=True),
            **(workers or dict(num_workers=0)),
        ),
    )
    overrides.setdefault('train_cfg', dict(by_epoch=True, max_epochs=EPOCHS))
    hooks = dict(checkpoint=PER_ITERATION, resume=dict(type='ExactResumeHook'))
    hooks.update(overrides.pop('hooks', {}))
    return build_runner(
        work_dir,
        hooks=hooks,
        model=stochastic_model(),
        optim_wrapper=dict(
            constructor='MergedOptimWrapperConstructor',
            optimizer=dict(type='AdamW', lr=0.01),
            clip_grad=dict(max_norm=5.0),
            **overrides.pop('optim', {}),
        ),
        param_scheduler=overrides.pop(
            'param_scheduler',
            [
                dict(
                    type='LinearLR',
                    start_factor=0.1,
                    end=1,
                    convert_to_iter_based=True,
                ),
                dict(type='CosineAnnealingLR', begin=1, by_epoch=True),
            ],
        ),
        custom_hooks=[dict(type='EMAHook', momentum=0.1)],
        default_scope='mmpretrain',
        **overrides,
    )


def differences(left: Any, right: Any, where: str = '') -> list[str]:
    """Places in nested states that are not equal bit for bit."""
    if isinstance(left, HistoryBuffer):
        return differences(left.data, right.data, where)
    if isinstance(left, dict):
        if set(left) != set(right):
            return [f'{where}: {sorted(set(left) ^ set(right))}']
        pairs = [(left[key], right[key], key) for key in left]
    elif isinstance(left, (list, tuple)):
        if len(left) != len(right):
            return [f'{where}: lengths {len(left)}, {len(right)}']
        pairs = [(a, b, i) for i, (a, b) in enumerate(zip(left, right))]
    elif isinstance(left, torch.Tensor):
        return [] if torch.equal(left, right) else [where]
    elif isinstance(left, np.ndarray):
        return [] if np.array_equal(left, right, equal_nan=True) else [where]
    else:
        return [] if left == right else [f'{where}: {left} {right}']
    return [
        place
        for a, b, key in pairs
        for place in differences(a, b, f'{where}.{key}')
    ]


def state_of(path: Path) -> dict:
    """What the end of a run is: all of a checkpoint but times and names."""
    checkpoint = torch.load(path)
    hub = checkpoint['message_hub']
    logs = hub['log_scalars']
    return dict(
        weights=checkpoint['state_dict'],
        averages=checkpoint['ema_state_dict'],
        optimizer=checkpoint['optimizer'],
        schedulers=checkpoint['param_schedulers'],
        logs={key: logs[key] for key in logs if 'time' not in key},
        epoch=checkpoint['meta']['epoch'],
        iter=checkpoint['meta']['iter'],
    )


def assert_same_end(left: Path, right: Path) -> None:
    assert differences(state_of(left), state_of(right)) == []


def train(work_dir: Path, **overrides: Any) -> Any:
    runner = stochastic_run(work_dir, **overrides)
    runner.train()
    # Ends persistent workers now; the garbage collector waits for seconds.
    runner.train_dataloader._iterator = None
    if hasattr(runner.train_loop, 'dataloader_iterator'):
        runner.train_loop.dataloader_iterator = None
    return runner


def train_in_two(tmp_path: Path, stops: Any, **overrides: Any) -> None:
    """Compare runs that go on from checkpoints of a whole run with it."""
    whole = tmp_path / 'whole'
    train(whole, **overrides)
    for stop in stops:
        part = tmp_path / f'from_{stop}'
        train(
            part,
            resume=True,
            load_from=str(whole / f'iter_{stop}.pth'),
            **overrides,
        )
        name = f'iter_{TOTAL}.pth'
        assert_same_end(whole / name, part / name)


@pytest.fixture(autouse=True)
def _no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """MMEngine sleeps two seconds when an iteration-based loop starts over."""
    monkeypatch.setattr(loops.time, 'sleep', lambda seconds: None)


NO_WORKERS = dict(num_workers=0)
WORKERS = dict(num_workers=2)
PERSISTENT = dict(num_workers=2, persistent_workers=True)
BY_ITERATION = dict(
    train_cfg=dict(by_epoch=False, max_iters=TOTAL),
    param_scheduler=[
        dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=4),
        dict(type='CosineAnnealingLR', by_epoch=False, begin=4),
    ],
)


# In the first epoch, at the end of one, in the middle, before the last step.
@pytest.mark.parametrize(
    ('workers', 'stops'),
    [
        (NO_WORKERS, (1, LENGTH, LENGTH + 2, TOTAL - 1)),
        (WORKERS, (LENGTH + 2,)),
        (PERSISTENT, (LENGTH, LENGTH + 2)),
    ],
)
def test_a_resumed_run_ends_as_one_that_was_not_interrupted(
    tmp_path: Path, workers: dict, stops: tuple
) -> None:
    train_in_two(tmp_path, stops, workers=workers)


@pytest.mark.parametrize('workers', [NO_WORKERS, PERSISTENT])
@pytest.mark.parametrize('sampler', ['DefaultSampler', 'InfiniteSampler'])
def test_so_does_one_that_counts_iterations(
    tmp_path: Path, workers: dict, sampler: str
) -> None:
    loader = dict(
        batch_size=BATCH,
        dataset=Augmented(),
        sampler=dict(type=sampler, shuffle=True),
        **workers,
    )

    train_in_two(
        tmp_path, (LENGTH + 2,), train_dataloader=loader, **BY_ITERATION
    )


def test_without_the_hook_it_does_not(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match='weights.architecture.backbone'):
        train_in_two(
            tmp_path, (2,), hooks=dict(resume=dict(type='IterTimerHook'))
        )


def test_the_number_of_workers_may_change(tmp_path: Path) -> None:
    train(tmp_path / 'whole', workers=NO_WORKERS)

    train(
        tmp_path / 'part',
        workers=WORKERS,
        resume=True,
        load_from=str(tmp_path / 'whole' / f'iter_{LENGTH + 1}.pth'),
    )

    name = f'iter_{TOTAL}.pth'
    assert_same_end(tmp_path / 'whole' / name, tmp_path / 'part' / name)


def test_gradients_of_an_unfinished_accumulation_are_kept(
    tmp_path: Path,
) -> None:
    train_in_two(tmp_path, (LENGTH, 7), optim=dict(accumulative_counts=3))


class Begun(Hook):
    """Keeps weights and gradients with which training begins."""

    def before_train(self, runner: Runner) -> None:
        model = runner.model
        self.weights = {k: v.clone() for k, v in model.state_dict().items()}
        self.gradients = [p.grad for p in model.parameters()]


def begin(work_dir: Path, checkpoint: Path, ema: bool, **overrides) -> Begun:
    """What a run that is resumed begins with."""
    runner = stochastic_run(
        work_dir, resume=True, load_from=str(checkpoint), **overrides
    )
    if not ema:
        runner._hooks = [h for h in runner.hooks if not isinstance(h, EMAHook)]
    begun = Begun()
    runner.register_hook(begun, priority='LOWEST')
    runner.train()
    return begun


def test_gradients_of_another_accumulation_are_left_out(
    tmp_path: Path,
) -> None:
    train(tmp_path / 'whole', optim=dict(accumulative_counts=3))
    checkpoint = tmp_path / 'whole' / 'iter_7.pth'

    same, other = (
        begin(tmp_path / f'{n}', checkpoint, True,
              optim=dict(accumulative_counts=n))
        for n in (3, 2)
    )  # fmt: skip

    assert any(gradient is not None for gradient in same.gradients)
    assert all(gradient is None for gradient in other.gradients)
    said = 'within an accumulation of gradients, of which an update now needs'
    assert said in log_of(tmp_path / '2')
    assert said not in log_of(tmp_path / '3')


def test_a_run_that_averages_no_more_goes_on_with_the_trained_weights(
    tmp_path: Path,
) -> None:
    train(tmp_path / 'whole')
    checkpoint = tmp_path / 'whole' / f'iter_{LENGTH}.pth'
    saved = torch.load(checkpoint)
    trained = {
        name.removeprefix('module.'): value
        for name, value in saved['ema_state_dict'].items()
        if name.startswith('module.')
    }
    assert differences(trained, dict(saved['state_dict']))

    averaging, alone = (
        begin(tmp_path / f'{ema}', checkpoint, ema) for ema in (True, False)
    )

    assert differences(averaging.weights, trained) == []
    assert differences(alone.weights, trained) == []
    said = 'this run has no EMAHook: it goes on with the trained ones'
    assert said in log_of(tmp_path / 'False')
    assert said not in log_of(tmp_path / 'True')


def test_of_several_processes_gradients_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Runner, 'world_size', property(lambda self: 2))

    train(tmp_path, optim=dict(accumulative_counts=3))

    assert 'lies within an accumulation of gradients' in log_of(tmp_path)
    assert 'accumulated_gradients' not in torch.load(tmp_path / 'iter_1.pth')


def test_ranks_augment_by_numbers_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels: list[torch.Tensor] = []

    class See(Hook):
        def before_train_iter(
            self, runner: Any, batch_idx: int, data_batch: Any = None
        ) -> None:
            pixels.append(torch.stack(data_batch['inputs']))

    for rank in (0, 1):
        monkeypatch.setattr(Runner, 'rank', property(lambda self, r=rank: r))
        train(tmp_path / str(rank), hooks=dict(see=See()))

    one, other = pixels[0], pixels[TOTAL]
    assert torch.equal(one.mean((1, 2, 3)) // 20, other.mean((1, 2, 3)) // 20)
    assert not torch.equal(one, other)


def test_a_validation_by_itself_builds_no_training(tmp_path: Path) -> None:
    runner = build_runner(
        tmp_path, dict(resume=dict(type='ExactResumeHook')), **validation(3.0)
    )

    runner.val()

    assert not isinstance(runner._train_loop, BaseLoop)


def test_bfloat16_resumes_exactly(tmp_path: Path) -> None:
    train_in_two(
        tmp_path, (LENGTH + 2,), optim=dict(type='Bfloat16OptimWrapper')
    )


def test_the_gradient_scaler_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MMEngine's mixed precision is for CUDA; here it is on the CPU."""
    scaler = getattr(torch.amp, 'GradScaler', None)
    if scaler is None:
        pytest.skip('this torch has gradient scalers for CUDA only')
    monkeypatch.setattr(amp, 'is_cuda_available', lambda: True)
    monkeypatch.setattr(
        amp, 'GradScaler', functools.partial(scaler, device='cpu')
    )
    mixed = dict(
        type='AmpOptimWrapper',
        dtype='bfloat16',
        loss_scale=dict(init_scale=256.0, growth_interval=2),
    )

    train_in_two(tmp_path, (LENGTH + 2,), optim=mixed)

    scales = [
        torch.load(tmp_path / 'whole' / f'iter_{stop}.pth')['optimizer'][
            'loss_scaler'
        ]['scale']
        for stop in (1, LENGTH + 2, TOTAL)
    ]
    assert scales == [256.0, 2048.0, 32768.0]


class DrawsInBetween(Hook):
    """What an evaluation, a picture or a check may do to the generators."""

    def after_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        random.random()
        np.random.rand(runner.iter)
        torch.rand(3)


def test_random_numbers_that_others_draw_change_nothing(
    tmp_path: Path,
) -> None:
    train(tmp_path / 'alone')

    train(tmp_path / 'among', hooks=dict(other=DrawsInBetween()))

    name = f'iter_{TOTAL}.pth'
    assert_same_end(tmp_path / 'alone' / name, tmp_path / 'among' / name)


class Jitter(Hook):
    """Draws that the run depends on, at the end of each epoch."""

    def after_train_epoch(self, runner: Any) -> None:
        with torch.no_grad():
            for parameter in runner.model.parameters():
                parameter += 0.01 * torch.randn(()) * random.random()


def test_samplers_and_hooks_that_draw_for_themselves(tmp_path: Path) -> None:
    images = Augmented()
    loader = dict(
        batch_size=BATCH,
        num_workers=0,
        dataset=images,
        sampler=RandomSampler(images),
    )

    train_in_two(
        tmp_path,
        (LENGTH, LENGTH + 2),
        train_dataloader=loader,
        hooks=dict(jitter=Jitter()),
    )


def test_a_run_without_seed_keeps_the_order_of_its_images(
    tmp_path: Path,
) -> None:
    free = dict(randomness=dict(seed=None))

    train_in_two(tmp_path, (LENGTH + 2,), **free)


def test_images_that_were_trained_on_are_not_loaded(tmp_path: Path) -> None:
    train(tmp_path)
    Augmented.loaded = 0

    train(
        tmp_path,
        resume=True,
        load_from=str(tmp_path / f'iter_{TOTAL - 2}.pth'),
    )

    assert Augmented.loaded == 2 * BATCH


def test_the_log_counts_on_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    hooks = dict(logger=dict(type='LoggerHook', interval=1))
    train(tmp_path / 'whole', hooks=hooks)

    train(
        tmp_path / 'part',
        hooks=hooks,
        resume=True,
        load_from=str(tmp_path / 'whole' / f'iter_{LENGTH + 2}.pth'),
    )

    def lines(work_dir: Path) -> list[str]:
        return [
            re.sub('(eta|time|data_time): [0-9:.]+', '', line.split('INFO')[1])
            for line in log_of(work_dir).splitlines()
            if 'Epoch(train)' in line
        ]

    rest = lines(tmp_path / 'part')
    assert len(rest) == TOTAL - LENGTH - 2
    assert rest == lines(tmp_path / 'whole')[LENGTH + 2 :]


def seen_images(work_dir: Path, **overrides: Any) -> list[int]:
    """Images of a run in their order."""
    seen: list[int] = []

    class See(Hook):
        def before_train_iter(
            self, runner: Any, batch_idx: int, data_batch: Any = None
        ) -> None:
            means = [pixels.mean() for pixels in data_batch['inputs']]
            seen.extend(int(mean // 20) for mean in means)

    train(work_dir, hooks=dict(see=See()), **overrides)
    return seen


def loader_of(batch_size: int, **overrides: Any) -> dict:
    return dict(
        batch_size=batch_size,
        num_workers=0,
        dataset=Augmented(),
        sampler=dict(type='DefaultSampler', shuffle=True),
        **overrides,
    )


# At the end of the first epoch, and after four and six images of the second.
@pytest.mark.parametrize(
    ('stop', 'first'),
    [
        (LENGTH, IMAGES),
        (LENGTH + 2, IMAGES + 4),
        (LENGTH + 3, IMAGES + 4),
    ],
)
def test_another_batch_size_goes_on_at_the_same_image(
    tmp_path: Path, stop: int, first: int
) -> None:
    order = seen_images(tmp_path / 'whole')

    rest = seen_images(
        tmp_path / 'part',
        train_dataloader=loader_of(4),
        resume=True,
        load_from=str(tmp_path / 'whole' / f'iter_{stop}.pth'),
    )

    assert rest == order[first:]
    log = log_of(tmp_path / 'part')
    assert 'batches of 1 x 4 images instead of batches of 1 x 2' in log
    # Three batches of the present size are an epoch.
    end = torch.load(tmp_path / 'part' / 'iter_9.pth')
    assert end['param_schedulers'][0]['_global_step'] == 9


# Of the 14 images that were seen, three batches of four from one stream, or
# the four of the second epoch.
@pytest.mark.parametrize(
    ('sampler', 'first'), [('InfiniteSampler', 12), ('DefaultSampler', 14)]
)
def test_so_does_a_run_that_counts_iterations(
    tmp_path: Path, sampler: str, first: int
) -> None:
    loader = dict(loader_of(BATCH), sampler=dict(type=sampler, shuffle=True))
    order = seen_images(
        tmp_path / 'whole', train_dataloader=dict(loader), **BY_ITERATION
    )

    rest = seen_images(
        tmp_path / 'part',
        train_dataloader=dict(loader, batch_size=4),
        resume=True,
        load_from=str(tmp_path / 'whole' / f'iter_{LENGTH + 2}.pth'),
        **BY_ITERATION,
    )

    assert rest[: len(order) - first] == order[first:]


def change(path: Path, **meta: Any) -> str:
    """Write other facts to a checkpoint."""
    checkpoint = torch.load(path)
    for facts in (checkpoint['meta'], checkpoint['meta']['exact_resume']):
        facts.update({key: meta[key] for key in facts.keys() & meta})
    torch.save(checkpoint, path)
    return str(path)


def test_fewer_processes_go_on_at_the_same_image(tmp_path: Path) -> None:
    order = seen_images(tmp_path / 'whole')
    stop = tmp_path / 'whole' / f'iter_{LENGTH + 2}.pth'

    rest = seen_images(
        tmp_path / 'part', resume=True, load_from=change(stop, world_size=2)
    )

    assert rest == order[IMAGES + 8 :]
    log = log_of(tmp_path / 'part')
    assert 'batches of 1 x 2 images instead of batches of 2 x 2' in log


def test_where_epoch_and_iteration_disagree_the_iteration_counts(
    tmp_path: Path,
) -> None:
    order = seen_images(tmp_path / 'whole')
    stop = tmp_path / 'whole' / f'iter_{LENGTH + 2}.pth'

    rest = seen_images(
        tmp_path / 'part',
        train_dataloader=loader_of(4),
        resume=True,
        load_from=change(stop, epoch=2),
    )

    assert rest == order[IMAGES + 4 :]
    assert 'epoch 2 and iteration 7' in log_of(tmp_path / 'part')


def test_of_a_dataset_that_shrank_an_epoch_is_at_most_over(
    tmp_path: Path,
) -> None:
    class Few(Augmented):
        def __len__(self) -> int:
            return 2 * BATCH

    train(tmp_path / 'whole')

    runner = train(
        tmp_path / 'part',
        train_dataloader=dict(loader_of(BATCH), dataset=Few()),
        resume=True,
        load_from=str(tmp_path / 'whole' / f'iter_{TOTAL - 1}.pth'),
    )

    assert (runner.epoch, runner.iter) == (EPOCHS, EPOCHS * 2)


class Uneven:
    """Batches that have no size in common."""

    sampler = None

    def __iter__(self) -> Any:
        return iter([[0, 1, 2], [3], [4, 5], [6, 7], [8, 9]])

    def __len__(self) -> int:
        return LENGTH


def test_batches_without_a_common_size_resume_exactly(tmp_path: Path) -> None:
    loader = DataLoader(
        Augmented(), batch_sampler=Uneven(), collate_fn=pseudo_collate
    )

    train_in_two(tmp_path, (LENGTH + 2,), train_dataloader=loader)


@pytest.mark.parametrize(
    ('changed', 'schedule'),
    [(False, None), (True, None), (True, [dict(type='ConstantMomentum')])],
)
def test_rates_without_a_schedule_follow_a_config_that_changed(
    tmp_path: Path, changed: bool, schedule: list | None
) -> None:
    """And stay where a hook put them in one that did not."""

    class Halve(Hook):
        def before_train_epoch(self, runner: Any) -> None:
            if runner.epoch == 1:
                runner.optim_wrapper.param_groups[0]['lr'] = 0.05

    settings = dict(
        hooks=dict(resume=dict(type='ExactResumeHook'), halve=Halve()),
        param_scheduler=schedule,
    )
    whole = build_runner(tmp_path / 'whole', **settings)
    whole.train()
    assert whole.optim_wrapper.get_lr()['lr'] == [0.05]

    part = build_runner(
        tmp_path / 'part',
        resume=True,
        load_from=str(tmp_path / 'whole' / 'epoch_2.pth'),
        optim_wrapper=dict(
            optimizer=dict(type='SGD', lr=0.02 if changed else 0.1)
        ),
        **settings,
    )
    part.train()

    assert part.optim_wrapper.get_lr()['lr'] == [0.02 if changed else 0.05]
    log = log_of(tmp_path / 'part')
    assert ('Learning rates follow the config: [0.1] -> [0.02]' in log) is (
        changed
    )


def test_a_run_that_was_resumed_still_knows_its_configured_rates(
    tmp_path: Path,
) -> None:
    class Halve(Hook):
        def after_train_epoch(self, runner: Any) -> None:
            runner.optim_wrapper.param_groups[0]['lr'] = 0.05

    hooks = dict(resume=dict(type='ExactResumeHook'), halve=Halve())
    first, second, third = (tmp_path / name for name in 'abc')
    build_runner(first, hooks).train()

    for last, name, folder, epochs in (
        (first, 'epoch_2.pth', second, 3),
        (second, 'epoch_3.pth', third, 4),
    ):
        build_runner(
            folder,
            hooks,
            resume=True,
            load_from=str(last / name),
            train_cfg=dict(by_epoch=True, max_epochs=epochs),
        ).train()

    assert 'Learning rates follow the config' not in log_of(third)


def test_early_stopping_counts_on(tmp_path: Path) -> None:
    """Also where the validation of the checkpoint is made up for."""
    scores = [50, 60, 60, 60, 60, 60, 60, 60]
    settings = dict(
        hooks=dict(
            resume=dict(type='ExactResumeHook'),
            stop=dict(
                type='EarlyStoppingHook',
                monitor='score',
                rule='greater',
                patience=3,
            ),
        ),
    )
    longer = dict(by_epoch=True, max_epochs=8, val_interval=1)
    whole = build_runner(
        tmp_path / 'whole',
        **settings,
        **{**validation(*scores), 'train_cfg': longer},
    )
    whole.train()
    assert whole.epoch == 5

    part = build_runner(
        tmp_path / 'part',
        resume=True,
        load_from=str(tmp_path / 'whole' / 'epoch_4.pth'),
        **settings,
        # The checkpoint is older than the validation of its epoch.
        **{**validation(*scores[3:]), 'train_cfg': longer},
    )
    part.train()

    assert part.epoch == 5


def test_a_run_that_early_stopping_has_ended_stays_ended(
    tmp_path: Path,
) -> None:
    """Where its last score is the best, but not by enough."""
    scores = [50, 60, 61, 62, 63]
    settings = dict(
        hooks=dict(
            resume=dict(type='ExactResumeHook'),
            checkpoint=dict(
                type='AtomicCheckpointHook', save_best='score', rule='greater'
            ),
            stop=dict(
                type='EarlyStoppingHook',
                monitor='score',
                rule='greater',
                min_delta=5,
                patience=1,
            ),
        ),
    )
    longer = dict(by_epoch=True, max_epochs=5, val_interval=1)
    whole = build_runner(
        tmp_path, **settings, **{**validation(*scores), 'train_cfg': longer}
    )
    whole.train()
    assert whole.epoch == 3

    again = build_runner(
        tmp_path,
        resume=True,
        **settings,
        **{**validation(*scores[3:]), 'train_cfg': longer},
    )
    again.train()

    assert again.epoch == 3


def test_a_checkpoint_of_mmengine_alone_is_resumed_with_a_word(
    tmp_path: Path,
) -> None:
    train(tmp_path / 'whole', hooks=dict(resume=dict(type='IterTimerHook')))
    stop = str(tmp_path / 'whole' / f'iter_{LENGTH + 2}.pth')

    rest = seen_images(tmp_path / 'part', resume=True, load_from=stop)

    assert len(rest) == (TOTAL - LENGTH - 2) * BATCH
    assert 'written without ExactResumeHook' in log_of(tmp_path / 'part')


def mmrazor_model() -> torch.nn.Module:
    """Distillation whose teacher is part of the model."""
    cfg = builders.algorithm_config(type='SingleTeacherDistill')
    cfg.pop('allow_random_teacher')
    cfg['distiller']['type'] = 'ConfigurableDistiller'
    cfg['architecture']['data_preprocessor'] = dict(type='ClsDataPreprocessor')
    return MODELS.build(cfg)


def test_of_a_checkpoint_with_teacher_the_weights_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(globals(), 'stochastic_model', mmrazor_model)
        train(tmp_path / 'old', hooks=dict(resume=dict(type='IterTimerHook')))
    path = tmp_path / 'old' / f'iter_{TOTAL}.pth'
    old = torch.load(path)['state_dict']
    assert any(key.startswith('teacher.') for key in old)

    runner = stochastic_run(tmp_path / 'new', load_from=str(path))
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner.call_hook('before_run')
    runner.load_or_resume()
    # Here MMPretrain's averaged weights become those of the model.
    runner.call_hook('before_train')

    state = runner.model.state_dict()
    assert differences(state, {key: old[key] for key in state}) == []
    with pytest.raises(ResumeError, match='holds a teacher.*as load_from'):
        train(tmp_path / 'new', resume=True, load_from=str(path))


def test_another_dataset_is_mentioned(tmp_path: Path) -> None:
    train(tmp_path)
    path = change(tmp_path / f'iter_{LENGTH}.pth', images=99)

    train(tmp_path, resume=True, load_from=path)

    assert 'has 10 images, at the checkpoint it had 99' in log_of(tmp_path)


def test_checkpoints_hold_the_logs_of_an_epoch(tmp_path: Path) -> None:
    train(tmp_path / 'short', log_processor=dict(window_size=2))
    train(
        tmp_path / 'long',
        log_processor=dict(
            custom_cfg=[
                dict(data_src='loss', method_name='mean', window_size='global')
            ]
        ),
    )

    lengths = {
        len(buffer.data[0])
        for work_dir in ('short', 'long')
        for buffer in torch.load(tmp_path / work_dir / f'iter_{TOTAL}.pth')[
            'message_hub'
        ]['log_scalars'].values()
    }
    assert lengths == {LENGTH, TOTAL}


def test_checkpoints_hold_the_logs_of_the_longest_window(
    tmp_path: Path,
) -> None:
    window = dict(data_src='loss', method_name='mean', window_size=LENGTH + 2)

    train(tmp_path, log_processor=dict(window_size=2, custom_cfg=[window]))

    end = torch.load(tmp_path / f'iter_{TOTAL}.pth')['message_hub']
    for buffer in end['log_scalars'].values():
        assert [len(part) for part in buffer.data] == [LENGTH + 2] * 2


def test_a_loader_without_batches_trains_with_a_warning(
    tmp_path: Path,
) -> None:
    class Stream(IterableDataset):
        def __iter__(self) -> Any:
            return (Augmented()[index] for index in range(IMAGES))

        def __len__(self) -> int:
            return IMAGES

    train(
        tmp_path,
        train_dataloader=dict(
            batch_size=BATCH, num_workers=0, dataset=Stream(), sampler=None
        ),
    )

    assert 'Resuming will not be exact' in log_of(tmp_path)


def test_a_runner_that_loads_too_early_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, 'Runner', FlexibleRunner)

    train(tmp_path)

    assert 'FlexibleRunner loads checkpoints before' in log_of(tmp_path)


# Both runs by two processes; one of them compares.
TWO_PROCESSES = """
from pathlib import Path
import torch.distributed
import serkd_mm
from tests.engine.hooks.test_exact_resume_hook import (
    PERSISTENT, differences, state_of, train
)

torch.distributed.init_process_group('gloo')
job = dict(
    launcher='pytorch',
    env_cfg=dict(dist_cfg=dict(backend='gloo')),
    cfg=dict(
        model_wrapper_cfg=dict(
            type='MMDistributedDataParallel',
            device_ids=None,
            broadcast_buffers=False,
        )
    ),
    randomness=dict(seed=0, diff_rank_seed=True),
    workers=PERSISTENT,
)
train(Path('whole'), **job)
# Three batches of two images per epoch and process.
stop = str(Path('whole') / 'iter_5.pth')
first = torch.distributed.get_rank() == 0
# The other one does not know of a checkpoint: its machine is a new one.
known = dict(resume=True, load_from=stop) if first else dict()
runner = train(Path('part'), **known, **job)
if runner.rank == 0:
    ends = [state_of(Path(name) / 'iter_9.pth') for name in ('whole', 'part')]
    Path('differences').write_text(str(differences(*ends)))
"""


def test_a_run_of_several_optimizers_resumes_exactly(tmp_path: Path) -> None:
    hooks = dict(resume=dict(type='ExactResumeHook'))
    whole, part = tmp_path / 'whole', tmp_path / 'part'
    build_runner(whole, hooks, **two_optimizers()).train()
    start = dict(resume=True, load_from=str(whole / 'epoch_1.pth'))
    build_runner(part, hooks, **two_optimizers(), **start).train()

    ends = [
        torch.load(folder / f'epoch_{EPOCHS}.pth') for folder in (whole, part)
    ]
    for key in ('state_dict', 'optimizer'):
        assert differences(*(end[key] for end in ends)) == []


@pytest.mark.slow
def test_two_processes_resume_exactly(tmp_path: Path) -> None:
    (tmp_path / 'script.py').write_text(TWO_PROCESSES)
    root = str(Path(__file__).resolve().parents[3])
    launcher = ['-m', 'torch.distributed.run', '--nproc-per-node', '2']

    done = subprocess.run(
        [sys.executable, '-W', 'ignore', *launcher]
        + ['--master-port', str(free_port()), 'script.py'],
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': root, 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        timeout=600,
    )

    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / 'differences').read_text() == '[]'
