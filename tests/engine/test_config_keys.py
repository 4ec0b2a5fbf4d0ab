# Copyright (c) The serkd_mm authors. All rights reserved.
"""Misspelt and missing keys, and settings of a wrong type, are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from serkd_mm.engine.config_checks import check_config
from serkd_mm.engine.config_keys import check_keys, check_split, check_types

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'

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
