# Copyright (c) The serkd_mm authors. All rights reserved.
"""The README's code does what the README says."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope, init_default_scope
from mmrazor.registry import MODELS as MMRAZOR_MODELS

from serkd_mm.engine.export import export_student

from .pages import ROOT, links, python_block


def build_random(cfg: Config) -> torch.nn.Module:
    """Build the config's algorithm without any checkpoint."""
    init_default_scope('mmpretrain')
    cfg.model.teacher_ckpt = None
    cfg.model.allow_random_teacher = True
    cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    return MODELS.build(cfg.model)


def test_the_swapped_teacher_builds_and_gives_finite_losses(tmp_path):
    path = tmp_path / 'swap.py'
    path.write_text(python_block('resnet50_8xb32_in1k.py'))
    cfg = Config.fromfile(path)
    assert cfg.model.teacher_ckpt.endswith('ea4938fc.pth')
    model = build_random(cfg)
    assert type(model.teacher.backbone).__name__ == 'ResNet'
    samples = [_labelled(label) for label in range(2)]
    losses = model(torch.randn(2, 3, 224, 224), samples, mode='loss')
    assert {name for name in losses if 'loss' in name} == {
        'student.loss',
        'distill.loss_kd',
        'distill.loss_feature',
        'distill.loss_distance',
        'distill.loss_angle',
    }
    assert all(torch.isfinite(loss) for loss in losses.values())


@pytest.fixture
def example_loss():
    """The loss of the README, registered for one test."""
    exec(python_block('class TokenCosineLoss'), {})
    yield
    MMRAZOR_MODELS.module_dict.pop('TokenCosineLoss')


def test_the_added_loss_is_computed(tmp_path, example_loss):
    path = tmp_path / 'loss.py'
    path.write_text(
        "_base_ = 'serkd_mm::quickstart/serkd.py'\n"
        + python_block("type='TokenCosineLoss'")
    )
    model = build_random(Config.fromfile(path))
    losses = model(torch.randn(1, 3, 32, 32), [_labelled(3)], mode='loss')
    assert 0 < losses['distill.loss_cosine'] <= 2


def test_every_file_that_the_readme_links_to_exists():
    targets = links(ROOT / 'README.md')
    assert targets
    assert [path for path in targets if not path.exists()] == []


def _labelled(label: int):
    from mmpretrain.structures import DataSample

    return DataSample().set_gt_label(label)


@pytest.fixture(scope='module')
def exported(tmp_path_factory) -> Path:
    """A student as the tool writes it, an image, and the label it gets."""
    pytest.importorskip('onnxscript')
    folder = tmp_path_factory.mktemp('exported')
    cfg = Config.fromfile(ROOT / 'configs' / 'quickstart' / 'serkd.py')
    cfg.model.architecture.head.init_cfg = dict(
        type='Normal', layer='Linear', std=1.0
    )
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = build_random(cfg.copy())
    model.init_weights()
    torch.save(
        dict(meta=dict(cfg=cfg.pretty_text), state_dict=model.state_dict()),
        folder / 'epoch_1.pth',
    )
    export_student(
        str(folder / 'epoch_1.pth'), str(folder / 'x.pth'), onnx=True
    )
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    cv2.imwrite(str(folder / 'image.jpg'), image)
    pixels = cv2.imread(str(folder / 'image.jpg')).transpose(2, 0, 1)
    batch = {'inputs': torch.from_numpy(pixels.copy())[None]}
    model.eval()
    with torch.no_grad():
        logits = model.student(model.data_preprocessor(batch)['inputs'])
    (folder / 'label').write_text(str(int(logits.argmax())))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize('package', ['mmpretrain', 'onnxruntime'])
def test_the_exported_student_gives_the_label(package, exported, monkeypatch):
    if package == 'mmpretrain':
        code = python_block('ImageClassificationInferencer')
    else:
        code = python_block('onnxruntime', ROOT / 'tools' / 'README.md')
    (student,) = exported.glob('x-????????.onnx')
    assert 3 <= len(code.replace('\n\n', '\n').splitlines()) <= 10
    monkeypatch.chdir(exported)
    printed = []
    exec(code.replace('STUDENT', student.stem), {'print': printed.append})
    assert printed == [int((exported / 'label').read_text())]


def test_every_test_that_the_readme_names_is_there():
    named = re.findall(
        r'`([\w/]*test_\w+\.py)(?:::(\w+))?`', (ROOT / 'README.md').read_text()
    )
    assert len(named) > 20
    for file, test in named:
        path = ROOT / 'tests' / file
        assert path.is_file(), file
        assert not test or f'def {test}(' in path.read_text(), test
