# Copyright (c) The serkd_mm authors. All rights reserved.
"""The last line of an error says where in the config it comes from."""

from __future__ import annotations

import errno
import re
import sys
import urllib.request
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from mmcv.transforms import LoadImageFromFile
from mmengine.config import Config
from mmengine.registry import DATASETS, HOOKS, DefaultScope
from mmengine.runner import Runner
from mmrazor.registry import MODELS
from torch import nn

from serkd_mm.datasets import BrokenImageError
from serkd_mm.engine.config_errors import config_errors
from serkd_mm.engine.downloads import DownloadError

from ..models.builders import (
    algorithm_config,
    batch,
    build,
    cnn_config,
    distiller_config,
    student_config,
)

# Python asks itself from 3.13.
ASKED = '. Did you mean' if sys.version_info >= (3, 13) else '; did you mean'


def config(**overrides: Any) -> Config:
    return Config(dict(model=algorithm_config(**overrides)))


def raised(cfg: Config) -> Exception:
    """The error of building a model inside the block."""
    with pytest.raises(Exception, match='config: ') as e, config_errors(cfg):
        MODELS.build(cfg.model)
    return e.value


def test_what_was_being_built_is_named_with_its_values() -> None:
    architecture = student_config()
    architecture['head']['in_channels'] = 'wide'

    error = raised(config(architecture=architecture))

    assert type(error) is TypeError
    path = "[config: model.architecture.head = {'type': 'DeiTDistillHead', "
    assert path in str(error)
    assert "'in_channels': 'wide'" in str(error).splitlines()[-1]
    names = []
    trace = error.__traceback__
    while trace is not None:
        names.append(trace.tb_frame.f_code.co_name)
        trace = trace.tb_next
    assert 'build_from_cfg' in names


def test_one_of_two_equal_parts_is_told_from_the_other() -> None:
    distiller = distiller_config()
    for name in ('student_superpixels', 'teacher_superpixels'):
        distiller['connectors'][name][1]['norm'] = 'ln'
    distiller['connectors']['teacher_superpixels'][1]['norm'] = 'l3'

    error = raised(config(distiller=distiller))

    place = 'model.distiller.connectors.teacher_superpixels.1 = '
    assert f'[config: {place}' in str(error)


@pytest.mark.parametrize('side', ['architecture', 'teacher'])
def test_the_module_that_ran_is_named(side: str) -> None:
    # Networks of the same classes, which do not tell the side.
    networks = dict(architecture=cnn_config(), teacher=cnn_config())
    linear = dict(type='LinearNeck', in_channels=65, out_channels=64)
    networks[side]['neck'] = [networks[side]['neck'], linear]
    distiller = dict(type='SeRKDDistiller')

    error = raised(config(**networks, distiller=distiller, input_size=32))

    assert type(error) is RuntimeError
    assert 'mat1 and mat2' in str(error)
    assert f'[config: model.{side}.neck.1 = ' in str(error)


def test_a_module_that_runs_after_building_is_named() -> None:
    cfg = config()
    model = build()
    model.student.head.layers.head = nn.Linear(3, 5)
    with pytest.raises(RuntimeError) as error, config_errors(cfg):
        model(*batch(), mode='loss')
    assert '[config: model.architecture.head = ' in str(error.value)


def test_a_loss_is_named_with_what_it_compares() -> None:
    distiller = distiller_config(losses=('loss_angle',))
    distiller['connectors']['teacher_superpixels'][1]['grid_size'] = 4

    text = str(raised(config(distiller=distiller)))

    assert 'model.distiller.distill_losses.loss_angle = ' in text
    assert 'model.distiller.loss_forward_mappings.loss_angle = ' in text
    assert "'connector': 'teacher_superpixels'" in text


def test_a_message_that_names_the_place_stays_as_it_is() -> None:
    cfg = config()
    message = 'set model.architecture.head.num_classes'
    with pytest.raises(ValueError, match=f'^{message}$'), config_errors(cfg):
        _loop(cfg, ValueError(message))


def _loop(cfg: Config, error: Exception) -> None:
    block = cfg.model.architecture.head
    if block:
        raise error


@pytest.mark.parametrize('error', [KeyError('num'), ValueError('a\nb\n')])
def test_every_kind_of_message_gets_the_place(error: Exception) -> None:
    cfg = config()
    with pytest.raises(type(error)) as raised, config_errors(cfg):
        _loop(cfg, error)
    last = str(raised.value).splitlines()[-1]
    assert '[config: model.architecture.head = ' in last
    assert str(raised.value).lstrip('\'"').startswith(('num', 'a\nb ['))


def test_an_assertion_without_a_word_gets_its_own_line() -> None:
    cfg = config(architecture=cnn_config())
    cfg.model.architecture.backbone.out_indices = (9,)
    said = re.escape('resnet.py, line ')
    place = r"\d+, has 'assert .*out_indices.*' \[config: model\.arch"
    with (
        pytest.raises(AssertionError, match=f'^{said}{place}'),
        config_errors(cfg),
    ):
        MODELS.build(cfg.model)


def test_an_error_that_keeps_its_own_text_is_wrapped() -> None:
    cfg = config()
    missing = FileNotFoundError(errno.ENOENT, 'No such file', 'weights.pth')
    with pytest.raises(RuntimeError) as error, config_errors(cfg):
        _loop(cfg, missing)
    assert str(error.value).startswith('FileNotFoundError: [Errno 2] No such')
    assert '[config: model.architecture.head = ' in str(error.value)
    assert error.value.__cause__ is missing


def test_loading_that_fails_without_a_word_gets_one() -> None:
    class Silent(LoadImageFromFile):
        def transform(self, results: dict) -> dict:
            raise AssertionError

    with pytest.raises(AssertionError) as error, config_errors(config()):
        Silent()(dict(img_path='a.jpg'))
    assert "write dict(type='LoadCheckedImage') instead" in str(error.value)


def test_faults_of_files_are_no_mistakes_in_the_config() -> None:
    cfg = config()
    with pytest.raises(BrokenImageError) as error, config_errors(cfg):
        _loop(cfg, BrokenImageError("broken image 'a.jpg'"))
    assert str(error.value) == "broken image 'a.jpg'"


@pytest.fixture
def no_internet(monkeypatch: pytest.MonkeyPatch) -> None:
    def urlopen(*_: Any, **__: Any) -> None:
        raise URLError('no route to host')

    monkeypatch.setattr(urllib.request, 'urlopen', urlopen)
    # PyTorch has taken the function by its name.
    monkeypatch.setattr(torch.hub, 'urlopen', urlopen)


def test_a_checkpoint_that_cannot_be_downloaded_is_named(
    no_internet: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    url = 'https://example.org/teacher.pth'
    cfg = config(teacher_ckpt=url, allow_random_teacher=False)

    with pytest.raises(DownloadError) as error, config_errors(cfg):
        MODELS.build(cfg.model)

    assert str(error.value) == (
        f'cannot download {url} (<urlopen error no route to host>); '
        'set model.teacher_ckpt to the path of a copy of it'
    )


def test_a_dataset_that_cannot_be_downloaded_is_named(
    no_internet: None, tmp_path: Path
) -> None:
    data = dict(type='mmpretrain.CIFAR10', split='train', pipeline=[])
    data['data_root'] = str(tmp_path)
    cfg = Config(dict(train_dataloader=dict(dataset=data)))

    with pytest.raises(DownloadError) as error, config_errors(cfg):
        DATASETS.build(cfg.train_dataloader.dataset)

    assert str(error.value).startswith('cannot download https://')
    assert 'cifar-10-python.tar.gz (<urlopen error' in str(error.value)
    end = '; put a copy of it into train_dataloader.dataset.data_root'
    assert str(error.value).endswith(end)


def test_an_error_from_elsewhere_stays_as_it_is() -> None:
    with pytest.raises(ValueError, match=r'^nowhere$'):
        _elsewhere(config())


def _elsewhere(cfg: Config) -> None:
    with config_errors(cfg):
        raise ValueError('nowhere')


def test_values_that_cannot_be_compared_do_no_harm() -> None:
    cfg = Config(dict(custom_hooks=[dict(type='No', weights=[1, 2])]))
    tensors = dict(type='No', weights=torch.zeros(2))
    with (
        DefaultScope.overwrite_default_scope('mmengine'),
        pytest.raises(KeyError) as error,
        config_errors(cfg),
    ):
        HOOKS.build(tensors)
    assert 'No is not in the mmengine::hook registry' in str(error.value)


@pytest.mark.parametrize(
    ('path', 'name', 'meant'),
    [
        # Beside the right one, as --cfg-options leave it.
        (
            'distiller.connectors.teacher_superpixels.1',
            'grid_sizes',
            'grid_size',
        ),
        ('architecture.backbone', 'drop_path_rates', 'drop_path_rate'),
        pytest.param(
            'architecture.backbone',
            'drop_path',
            'drop_path_rate',
            marks=pytest.mark.skipif(
                sys.version_info >= (3, 13), reason='Python has another guess'
            ),
        ),
        # Of the base class.
        ('architecture', 'init_config', 'init_cfg'),
        ('architecture.backbone', 'completely_else', None),
    ],
)
def test_the_argument_that_was_meant_is_named(
    path: str, name: str, meant: str | None
) -> None:
    cfg = config()
    cfg.merge_from_dict({f'model.{path}.{name}': 4})

    text = str(raised(cfg))

    assert f"got an unexpected keyword argument '{name}'" in text
    assert (ASKED in text) == (meant is not None)
    if meant:
        assert f"'{name}'{ASKED} '{meant}'? [config: model." in text


@pytest.mark.parametrize(
    ('path', 'name', 'meant'),
    [
        ('architecture.backbone', 'VisionTransfomer', 'VisionTransformer'),
        # Registered elsewhere, and there by another name.
        ('architecture', 'SeRKDDistiller', 'mmrazor.SeRKDDistiller'),
        ('distiller', 'mmrazor.SeRKDDistiler', 'SeRKDDistiller'),
        ('distiller', 'SomethingElseAltogether', None),
    ],
)
def test_the_type_that_was_meant_is_named(
    path: str, name: str, meant: str | None
) -> None:
    cfg = config()
    cfg.merge_from_dict({f'model.{path}.type': name})

    text = str(raised(cfg))

    assert f'{name} is not in the ' in text
    assert ('; did you mean' in text) == (meant is not None)
    if meant:
        assert f"; did you mean '{meant}'? [config: model.{path} = " in text


def test_what_was_built_before_is_not_blamed() -> None:
    """The variable of a loop over transforms outlives it."""
    data = dict(
        type='CIFAR10',
        data_root='nowhere',
        download=False,
        pipeline=[dict(type='PackInputs')],
        _scope_='mmpretrain',
    )
    cfg = Config(
        dict(
            train_pipeline=[dict(type='PackInputs')],
            train_dataloader=dict(dataset=data),
            val_dataloader=dict(dataset=dict(data, test_mode=True)),
        )
    )
    with (
        pytest.raises(Exception, match='config: ') as error,
        config_errors(cfg),
    ):
        DATASETS.build(cfg.train_dataloader.dataset)
    assert '[config: train_dataloader.dataset = {' in str(error.value)


def test_an_argument_that_is_in_no_config_is_not_guessed() -> None:
    with pytest.raises(TypeError, match=r"argument 'as_typle'") as error:
        _elsewhere_with(config(), as_typle=True)
    assert 'did you mean' not in str(error.value)


def _elsewhere_with(cfg: Config, **arguments: Any) -> None:
    with config_errors(cfg):
        torch.nn.Identity.forward(**arguments)


def test_the_argument_of_a_data_loader_is_named() -> None:
    loader = dict(
        batch_size=1,
        num_worker=2,
        dataset=[0, 1],
        sampler=dict(type='DefaultSampler', shuffle=False),
    )
    cfg = Config(dict(train_dataloader=loader))
    with pytest.raises(TypeError) as error, config_errors(cfg):
        Runner.build_dataloader(cfg.train_dataloader, seed=0)
    assert f"'num_worker'{ASKED} 'num_workers'? [" in str(error.value)


def test_long_parts_are_cut() -> None:
    cfg = config(architecture=None)
    assert len(str(raised(cfg))) < 1000
