# Copyright (c) The serkd_mm authors. All rights reserved.
"""What the host would take in silence is refused before training."""

from __future__ import annotations

from typing import Any

import pytest
from mmengine.config import Config

from serkd_mm.engine.config_checks import (
    check_config,
    check_length,
    check_optimizer,
)


@pytest.mark.parametrize('length', [0, -1, 2.5, '10', None, True])
@pytest.mark.parametrize('key', ['max_epochs', 'max_iters', 'val_interval'])
def test_training_has_a_length(key: str, length: Any) -> None:
    check_length(Config(dict(train_cfg={key: 3})))
    check_length(Config(dict(train_cfg=None)))
    with pytest.raises(ValueError, match=f'train_cfg.{key} must be a positiv'):
        check_length(Config(dict(train_cfg={key: length})))


@pytest.mark.parametrize('unit', ['epochs', 'iters'])
@pytest.mark.parametrize('form', ['one', 'list', 'several optimizers'])
def test_a_schedule_that_never_begins_is_named(unit: str, form: str) -> None:
    last = dict(type='CosineAnnealingLR', by_epoch=unit == 'epochs', begin=5)
    warm_up = dict(type='LinearLR', by_epoch=unit == 'epochs', end=5)
    schedulers, path = {
        'one': (last, 'param_scheduler'),
        'list': ([warm_up, last], 'param_scheduler.1'),
        'several optimizers': (dict(a=[last]), 'param_scheduler.a.0'),
    }[form]
    key = f'max_{unit}'
    cfg = Config(dict(train_cfg={key: 5}, param_scheduler=schedulers))

    with pytest.raises(
        ValueError, match=f'^train_cfg.{key}=5 is too short for {path} '
    ) as error:
        check_length(cfg)

    assert f'after the 5 {unit} of {path}.begin' in str(error.value)
    cfg.train_cfg[key] = 6
    check_length(cfg)


def test_a_schedule_with_an_end_or_another_unit_may_begin_later() -> None:
    for later in (dict(end=9), dict(by_epoch=False)):
        scheduler = dict(type='CosineAnnealingLR', begin=5, **later)
        check_length(
            Config(
                dict(train_cfg=dict(max_epochs=2), param_scheduler=[scheduler])
            )
        )


@pytest.mark.parametrize(
    'train_cfg',
    [
        dict(by_epoch=False, max_iters=9),
        dict(type='IterBasedTrainLoop', max_iters=9),
    ],
)
@pytest.mark.parametrize('place', ['custom_hooks.0', 'default_hooks.stop'])
def test_iterations_have_no_epoch_to_stop_at(
    train_cfg: dict, place: str
) -> None:
    stop = dict(type='mmrazor.StopDistillHook', stop_epoch=1)
    key = place.partition('.')[0]
    hooks = [stop] if key == 'custom_hooks' else dict(stop=stop)
    cfg = Config({'train_cfg': train_cfg, key: hooks})

    with pytest.raises(ValueError, match=rf'^{place} \(StopDistillHook\) '):
        check_config(cfg)

    for kind in (dict(by_epoch=True), dict(type='EpochBasedTrainLoop')):
        check_config(Config({**cfg, 'train_cfg': dict(max_epochs=2, **kind)}))


def test_iterations_move_no_schedule_and_save_nothing_by_epochs() -> None:
    def iterations(**settings: Any) -> Config:
        length = dict(by_epoch=False, max_iters=9, val_interval=3)
        return Config(dict(train_cfg=length, **settings))

    cosine = dict(type='CosineAnnealingLR', T_max=2)
    with pytest.raises(ValueError, match=r'^param_scheduler.0 \(Cosine.*move'):
        check_config(iterations(param_scheduler=[cosine]))
    for settings in (dict(by_epoch=False), dict(convert_to_iter_based=True)):
        check_config(iterations(param_scheduler=[dict(cosine, **settings)]))

    checkpoint = dict(type='AtomicCheckpointHook', interval=2)
    with pytest.raises(ValueError, match=r'^default_hooks.checkpoint counts'):
        check_config(iterations(default_hooks=dict(checkpoint=checkpoint)))
    for settings in (dict(by_epoch=False), dict(interval=-1)):
        hooks = dict(checkpoint=dict(checkpoint, **settings))
        check_config(iterations(default_hooks=hooks))


@pytest.mark.parametrize(
    ('settings', 'error', 'message'),
    [
        (
            dict(type='Adamw'),
            ValueError,
            "optimizer.type 'Adamw' is not registered; did you mean 'AdamW'",
        ),
        (dict(type='Q7'), ValueError, "'Q7' is not registered$"),
        # A decimal comma on the command line.
        (
            dict(type='SGD', lr=[0, 1]),
            TypeError,
            r'optim_wrapper.optimizer.lr must be a number, got \[0, 1\]',
        ),
        (dict(type='SGD', momentum=True), TypeError, 'momentum must be'),
    ],
)
def test_an_optimizer_that_cannot_be_is_named(
    settings: dict, error: type, message: str
) -> None:
    cfg = Config(dict(optim_wrapper=dict(optimizer=settings)))
    with pytest.raises(error, match=message):
        check_optimizer(cfg)


def test_optimizers_of_all_packages_are_known() -> None:
    for kind in ('AdamW', 'Lamb', 'mmpretrain.Lamb'):
        settings = dict(type=kind, lr=1e-3, weight_decay=None)
        check_optimizer(Config(dict(optim_wrapper=dict(optimizer=settings))))
    check_optimizer(Config(dict()))
