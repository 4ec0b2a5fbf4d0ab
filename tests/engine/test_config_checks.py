# Copyright (c) The serkd_mm authors. All rights reserved.
"""What the host would take in silence is refused before training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from torch import nn

from serkd_mm.engine.config_checks import (
    check_batch_norm,
    check_batches,
    check_config,
    check_instance_losses,
    check_keys,
    check_length,
    check_optimizer,
    check_split,
    check_types,
)

from ..models.builders import build, cnn_config, distiller_config, recorder
from .runs import Points, build_runner

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
IDLE = dict(type='SeRKDDistiller')

MISSPELT = {
    'param_schedulers': 'param_scheduler',
    'custom_hook': 'custom_hooks',
    'randomnes': 'randomness',
    'train_dataloaders': 'train_dataloader',
    'default_hooks.chekpoint': 'default_hooks.checkpoint',
    'auto_scale_lr.base_batch_siz': 'auto_scale_lr.base_batch_size',
    'randomness.sed': 'randomness.seed',
    'env_cfg.cudnn_benchmrk': 'env_cfg.cudnn_benchmark',
    'model.architecture.train_cfg.augment': 'model.architecture.train_cfg.'
    'augments',
    'optim_wrapper.paramwise_cfg.norm_deca_mult': 'optim_wrapper.'
    'paramwise_cfg.norm_decay_mult',
}
WRONG_TYPES = {
    'train_dataloader': [1, 2],
    'custom_hooks': dict(type='EMAHook'),
    'resume': 'yes',
    'randomness': None,
    'default_scope': 3,
    'load_from': True,
    'train_cfg': 'by_epoch',
    'optim_wrapper': 2.5,
}


# -- keys and types ---------------------------------------------------------


@pytest.mark.parametrize('key', list(MISSPELT))
def test_a_key_that_would_be_ignored_is_named(key: str) -> None:
    cfg = Config()
    cfg.merge_from_dict({key: 1})
    with pytest.raises(ValueError, match=f'config key {key} is not') as error:
        check_keys(cfg)
    assert f'did you mean {MISSPELT[key]}?' in str(error.value)


def test_a_hook_without_type_is_none() -> None:
    """As one whose name was misspelt behind ``--cfg-options``."""
    hooks = dict(teacher_check=dict(type='TeacherCheckHook'))
    check_keys(Config(dict(default_hooks=dict(hooks, logger=None))))
    with pytest.raises(
        ValueError,
        match=r'^config key default_hooks\.teachercheck has no type, '
        "so .*did you mean 'teacher_check'",
    ):
        check_keys(
            Config(dict(default_hooks=dict(hooks, teachercheck=dict(a=1))))
        )


@pytest.mark.parametrize('key', list(WRONG_TYPES))
def test_a_setting_of_a_wrong_type_is_named(key: str) -> None:
    with pytest.raises(TypeError, match=f'config key {key} must be of type'):
        check_types(Config({key: WRONG_TYPES[key]}))


def test_the_configs_of_the_package_pass() -> None:
    for name in ('quickstart/*', 'cifar10/*', 'serkd_deit-*', 'cnn/rkd_*'):
        (path, *_) = CONFIGS.glob(f'{name}.py')
        cfg = Config.fromfile(path)
        check_keys(cfg)
        check_types(cfg)


def test_unset_settings_and_names_of_ones_own_pass() -> None:
    cfg: dict[str, Any] = dict(
        default_scope=None,
        train_dataloader=None,
        load_from=None,
        bgr_mean=[1, 2, 3],
        train_pipeline=[],
        default_hooks=dict(my_report=dict(type='Report')),
    )
    check_keys(Config(cfg))
    check_types(Config(cfg))


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


# -- batch norm -------------------------------------------------------------


def batch_config(batch_size: int) -> Config:
    return Config(dict(train_dataloader=dict(batch_size=batch_size)))


def test_batch_norm_over_one_image_is_refused() -> None:
    norm = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    with pytest.raises(
        ValueError, match=r'train_dataloader\.batch_size is 1.*norm \(1\)'
    ):
        check_batch_norm(batch_config(1), norm)
    check_batch_norm(batch_config(2), norm)
    check_batch_norm(Config(dict(train_dataloader=None)), norm)


def test_norms_that_need_no_batch_may_have_one_image() -> None:
    class Frozen(nn.BatchNorm2d):
        def train(self, mode: bool = True) -> Frozen:
            return super().train(False)

    check_batch_norm(batch_config(1), nn.LayerNorm(4))
    check_batch_norm(batch_config(1), nn.Sequential(Frozen(4)))


def test_batch_norm_of_the_teacher_may_see_one_image() -> None:
    distiller = distiller_config(losses=('loss_kd',))
    distiller['teacher_recorders'] = dict(logits=recorder('head.fc'))
    model = build(teacher=cnn_config(), distiller=distiller)
    check_batch_norm(batch_config(1), model)
    student = build(
        architecture=cnn_config(), teacher=cnn_config(), distiller=IDLE
    )
    with pytest.raises(ValueError, match='architecture.backbone.bn1'):
        check_batch_norm(batch_config(1), student)


# -- losses between images --------------------------------------------------


@pytest.mark.parametrize('loss', ['InstanceDistanceLoss', 'InstanceAngleLoss'])
def test_two_images_have_no_relations(loss: str) -> None:
    logits = dict(recorder='logits')
    distiller = distiller_config(
        losses=(),
        distill_losses=dict(loss_images=dict(type=loss)),
        loss_forward_mappings=dict(
            loss_images=dict(
                preds_S=dict(logits, from_student=True),
                preds_T=dict(logits, from_student=False),
            )
        ),
    )
    model = build(distiller=distiller)

    for size in (1, 2):
        with pytest.raises(
            ValueError,
            match=rf'train_dataloader\.batch_size is {size}.*loss_images '
            rf'\({loss}\)',
        ):
            check_instance_losses(batch_config(size), model)
    check_instance_losses(batch_config(3), model)
    check_instance_losses(Config(dict(train_dataloader=None)), model)


# -- parts that belong together ---------------------------------------------


@pytest.mark.parametrize(
    ('split', 'missing', 'needed', 'said'),
    [
        (
            'val',
            ['val_evaluator'],
            False,
            'no val_evaluator beside val_dataloader and val_cfg; add what is '
            'missing, or set val_dataloader and val_cfg to None',
        ),
        (
            'test',
            ['test_dataloader', 'test_cfg', 'test_evaluator'],
            True,
            'no test_dataloader and no test_cfg and no test_evaluator; add '
            'what is missing',
        ),
        (
            'train',
            ['train_cfg'],
            True,
            'no train_cfg beside train_dataloader and optim_wrapper; add what '
            'is missing',
        ),
    ],
)
@pytest.mark.parametrize('unset', [True, False])
def test_a_missing_part_is_named(
    split: str, missing: list, needed: bool, said: str, unset: bool
) -> None:
    cfg = Config.fromfile(CONFIGS / 'quickstart' / 'student.py')
    for key in missing:
        if unset:
            cfg[key] = None
        else:
            cfg.pop(key)
    with pytest.raises(ValueError, match=f'^the config has {said}$'):
        check_split(cfg, split, needed)
    if not needed:
        with pytest.raises(ValueError, match=f'^the config has {said}$'):
            check_config(cfg)


def test_a_config_without_validation_passes() -> None:
    cfg = Config.fromfile(CONFIGS / 'quickstart' / 'student.py')
    check_split(cfg, 'train', needed=True)
    check_split(cfg, 'test', needed=True)
    for key in ('val_dataloader', 'val_cfg', 'val_evaluator'):
        cfg[key] = None
    check_config(cfg)


# -- batches ----------------------------------------------------------------


def loader(images: int, batch_size: int, **settings: Any) -> dict:
    return dict(
        dataset=Points(images),
        batch_size=batch_size,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=True),
        **settings,
    )


@pytest.mark.parametrize(
    ('settings', 'said'),
    [
        (
            loader(5, 6, drop_last=True),
            r'5 images per process, batch_size=6, drop_last=True; lower '
            r'train_dataloader\.batch_size, or set '
            r'train_dataloader\.drop_last=False$',
        ),
        (loader(0, 6), '0 images .* the dataset is empty$'),
    ],
)
@pytest.mark.parametrize('by_epoch', [True, False])
def test_a_training_set_without_a_batch_is_refused(
    settings: dict, said: str, by_epoch: bool, tmp_path: Path
) -> None:
    length = 'max_epochs' if by_epoch else 'max_iters'
    runner = build_runner(
        tmp_path,
        train_dataloader=settings,
        train_cfg={'by_epoch': by_epoch, length: 1},
    )
    match = f'^train_dataloader gives 0 batches: {said}'
    with pytest.raises(ValueError, match=match):
        check_batches(runner)


@pytest.mark.parametrize(
    'settings', [loader(6, 6, drop_last=True), loader(5, 6)]
)
def test_one_batch_is_enough(settings: dict, tmp_path: Path) -> None:
    runner = build_runner(tmp_path, train_dataloader=settings)
    check_batches(runner)
    runner.train()
    assert runner.iter == runner.epoch


# -- the optimizer ----------------------------------------------------------


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
