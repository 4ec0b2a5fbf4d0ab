# Copyright (c) The serkd_mm authors. All rights reserved.
"""Programs of students compute what PyTorch does, for every batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from serkd_mm.engine import graphs
from serkd_mm.engine.graphs import write_onnx, write_torchscript
from tests.models.builders import CLASSES, cnn_config, student_config

SIZE = (32, 32)


def resnet_config() -> dict:
    return dict(
        type='ImageClassifier',
        backbone=dict(
            type='ResNet', depth=18, base_channels=4, stem_channels=4
        ),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=CLASSES, in_channels=32),
    )


def swin_config() -> dict:
    """Windows, whose number is computed from the batch size in Python."""
    return dict(
        type='ImageClassifier',
        backbone=dict(
            type='SwinTransformer',
            arch=dict(embed_dims=8, depths=[1], num_heads=[1]),
            img_size=16,
            patch_size=2,
            window_size=4,
            out_indices=(0,),
        ),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=CLASSES, in_channels=8),
    )


NETWORKS = dict(
    deit=student_config(), resnet=resnet_config(), thin=cnn_config()
)


def build(cfg: dict) -> nn.Module:
    # Channels in another order and numbers that nobody forgets.
    preprocessor = dict(
        type='ClsDataPreprocessor',
        mean=[120.0, 110.0, 90.0],
        std=[60.0, 50.0, 40.0],
        to_rgb=True,
    )
    model = MODELS.build({**cfg, 'data_preprocessor': preprocessor})
    model.init_weights()
    for parameter in model.parameters():
        # The head of DeiT starts with zeros.
        nn.init.normal_(parameter, std=0.1)
    return model.eval()


def pixels(count: int, size: tuple[int, int] = SIZE) -> Tensor:
    return torch.randint(0, 256, (count, 3, *size)).float()


@torch.no_grad()
def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    return model(model.data_preprocessor({'inputs': images})['inputs'])


def assert_close(actual: Tensor, expected: Tensor) -> None:
    scale = float(expected.abs().max())
    assert scale > 0.01
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4 * scale)


def onnx_session(path: Path):
    import onnxruntime

    return onnxruntime.InferenceSession(
        str(path), providers=['CPUExecutionProvider']
    )


@pytest.mark.slow
def test_onnx_runtime_gives_the_logits_of_any_batch(tmp_path: Path) -> None:
    pytest.importorskip('onnxscript')
    model, path = build(NETWORKS['resnet']), tmp_path / 's.onnx'

    assert write_onnx(model, path, SIZE) is None

    session = onnx_session(path)
    for count in (1, 2, 5):
        images = pixels(count)
        (logits,) = session.run(['logits'], {'pixels': images.numpy()})
        assert_close(torch.from_numpy(logits), logits_of(model, images))
    # One file, without weights beside it.
    assert [p.name for p in tmp_path.iterdir()] == ['s.onnx']


@pytest.mark.slow
def test_a_graph_for_one_batch_size_takes_no_other(tmp_path: Path) -> None:
    pytest.importorskip('onnxscript')
    model, path, size = build(swin_config()), tmp_path / 's.onnx', (16, 16)

    note = write_onnx(model, path, size)

    assert note is not None
    assert note.startswith('s.onnx takes one image at a time')
    session = onnx_session(path)
    image = pixels(1, size)
    (logits,) = session.run(None, {'pixels': image.numpy()})
    assert_close(torch.from_numpy(logits), logits_of(model, image))
    with pytest.raises(Exception, match='Got: 2 Expected: 1'):
        session.run(None, {'pixels': pixels(2, size).numpy()})


@pytest.mark.parametrize('name', list(NETWORKS))
def test_torchscript_gives_the_logits_of_any_batch(
    name: str, tmp_path: Path
) -> None:
    model, path = build(NETWORKS[name]), tmp_path / 's.pt'

    assert write_torchscript(model, path, SIZE) is None

    program = torch.jit.load(str(path))
    for count in (1, 2, 5):
        images = pixels(count)
        assert_close(program(images), logits_of(model, images))
        assert_close(program(images.byte()), logits_of(model, images))


class _OneBatchSize(nn.Module):
    """A network that computes with the length of its batch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, 4)
        self.token = nn.Parameter(torch.zeros(1, 1, 8))

    def forward(self, images: Tensor) -> tuple[Tensor]:
        tokens = self.conv(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.repeat(len(images), 1, 1), tokens], 1)
        return (tokens.mean(1),)


@pytest.mark.parametrize('form', ['onnx', 'torchscript'])
def test_a_graph_that_refuses_other_batches_takes_single_images(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if form == 'onnx':
        pytest.importorskip('onnxscript')
    monkeypatch.setitem(MODELS.module_dict, 'TestOneSize', _OneBatchSize)
    cfg = dict(
        type='ImageClassifier',
        backbone=dict(type='TestOneSize'),
        head=dict(type='LinearClsHead', num_classes=CLASSES, in_channels=8),
    )
    write = dict(onnx=write_onnx, torchscript=write_torchscript)[form]
    note = write(build(cfg), tmp_path / 's.graph', SIZE)
    assert note is not None
    assert note.startswith('s.graph takes ')


@pytest.mark.parametrize('write', [write_onnx, write_torchscript])
def test_a_network_with_several_outputs_is_refused(
    tmp_path: Path, write: Callable
) -> None:
    if write is write_onnx:
        pytest.importorskip('onnxscript')
    model = build(student_config())
    model.head = Twice(model.head)

    with pytest.raises(ValueError, match='Twice puts out 2 sets of logits'):
        write(model, tmp_path / 'student', SIZE)

    assert not list(tmp_path.iterdir())


class Twice(nn.Module):
    """As ConformerHead."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: Any) -> tuple[Tensor, Tensor]:
        return self.head(features), self.head(features)


def test_torchscript_takes_single_images_where_tracing_fixes_the_batch(
    tmp_path: Path,
) -> None:
    model, path, size = build(swin_config()), tmp_path / 's.pt', (16, 16)

    note = write_torchscript(model, path, size)

    assert note is not None
    assert 'one after the other' in note
    program = torch.jit.load(str(path))
    for count in (1, 2, 5):
        images = pixels(count, size)
        assert_close(program(images), logits_of(model, images))


def test_programs_draw_no_random_numbers_and_stay_on_no_device(
    tmp_path: Path,
) -> None:
    model = build(NETWORKS['thin'])
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    write_torchscript(model, tmp_path / 's.pt', SIZE)
    assert torch.equal(torch.rand(1), expected)

    program = torch.jit.load(str(tmp_path / 's.pt'))
    assert 'aten::flip' in str(program.inlined_graph)
    assert 'Device' not in str(program.inlined_graph)


@pytest.mark.parametrize('write', [write_onnx, write_torchscript])
def test_a_program_that_computes_something_else_is_an_error(
    write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if write is write_onnx:
        pytest.importorskip('onnxscript')
    monkeypatch.setattr(graphs, '_gap', lambda *args: 0.01)
    monkeypatch.setattr(graphs, '_export_onnx', _write_something)
    with pytest.raises(RuntimeError, match=r'differ by 0\.01 of the largest'):
        write(build(NETWORKS['thin']), tmp_path / 's', SIZE)


def _write_something(classifier, path, *args, **kwargs) -> None:
    import onnx

    value = onnx.helper.make_tensor_value_info('x', 1, [1])
    node = onnx.helper.make_node('Identity', ['x'], ['y'])
    out = onnx.helper.make_tensor_value_info('y', 1, [1])
    graph = onnx.helper.make_graph([node], 'g', [value], [out])
    opset = onnx.helper.make_opsetid('', 17)
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8),
        str(path),
    )


def test_the_gap_sees_one_wrong_logit_and_another_shape() -> None:
    def double(images: Tensor) -> Tensor:
        return images.flatten(1)

    def other(images: Tensor) -> Tensor:
        logits = double(images).clone()
        logits[-1, -1] += 1
        return logits

    assert graphs._gap(double, double, (2, 2), (1, 3)) == 0
    assert graphs._gap(double, other, (2, 2), (1, 3)) >= 1 / 256
    cut = graphs._gap(double, lambda x: double(x)[:, 1:], (2, 2), (1,))
    assert np.isinf(cut)


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    present = graphs.find_spec
    monkeypatch.setattr(
        graphs,
        'find_spec',
        lambda name: None if name == 'onnxruntime' else present(name),
    )
    with pytest.raises(ImportError, match=r'onnxruntime.*; .*\.\[export\]'):
        graphs.check_onnx_packages()


def test_a_classifier_is_exported_in_eval_mode_with_all_its_parts() -> None:
    classifier = graphs.PixelClassifier(build(NETWORKS['thin']).train())
    assert not any(module.training for module in classifier.modules())
