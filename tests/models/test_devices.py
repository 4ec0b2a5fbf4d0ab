# Copyright (c) The serkd_mm authors. All rights reserved.
"""What a training step asks of devices that need not be there.

On tensors without values, which take the ways of an accelerator.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from mmpretrain.structures import DataSample
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from serkd_mm.ops import relation_fused

from .builders import (
    CLASSES,
    OTHER_RGB,
    RGB,
    build,
    cnn_config,
    cnn_distiller,
    total,
    vit_config,
)

NETWORKS = {
    'ViT': dict(
        data_preprocessor=RGB,
        teacher=dict(
            vit_config(),
            data_preprocessor=OTHER_RGB,
        ),
    ),
    'CNN': dict(
        architecture=cnn_config(),
        teacher=cnn_config(),
        distiller=cnn_distiller(stride=1, grid_size=2),
        channels_last=True,
    ),
}


class MetaAutocast(torch.autocast):
    """PyTorch has none for tensors without values."""

    def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
        device_type = 'cpu' if device_type == 'meta' else device_type
        super().__init__(device_type, *args, **kwargs)


@pytest.fixture(autouse=True)
def _autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, 'autocast', MetaAutocast)


@pytest.fixture(params=NETWORKS)
def model(request: pytest.FixtureRequest) -> nn.Module:
    return build(**NETWORKS[request.param]).to('meta')


def step(model: nn.Module, half: bool) -> dict[str, Tensor]:
    """Losses, and their gradients."""
    samples = [
        DataSample().set_gt_score(torch.empty(CLASSES, device='meta'))
        for _ in range(4)
    ]
    with torch.autocast('meta', torch.bfloat16, enabled=half):
        losses = model(
            torch.empty(4, 3, 32, 32, device='meta'), samples, mode='loss'
        )
    total(losses).backward()
    return losses


@pytest.mark.parametrize('half', [False, True], ids=['float32', 'autocast'])
def test_a_step_stays_on_its_device_and_asks_for_no_value(
    model: Any, half: bool
) -> None:
    # Without values none can be waited for, and meta tensors mix with none of
    # the CPU.
    losses = step(model, half)

    assert {value.device.type for value in losses.values()} == {'meta'}
    assert all(p.grad is not None for p in model.student.parameters())


# -- kernels of Apple's GPUs -------------------------------------------------


class Operators(TorchDispatchMode):
    """Names of the operators that are called, and of those in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.in_float64: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = str(func).removeprefix('aten.')
        self.names.add(name)
        found = func(*args, **(kwargs or {}))
        tensors = [t for t in tree_flatten(found)[0] if isinstance(t, Tensor)]
        if any(t.is_meta and t.dtype == torch.float64 for t in tensors):
            self.in_float64.add(name)
        return found


def overloaded(name: str) -> str:
    return name if '.' in name else f'{name}.default'


class Kernels:
    """PyTorch's own table of which device has a kernel of what."""

    def __init__(self) -> None:
        torchgen = pytest.importorskip('torchgen')
        native = 'packaged/ATen/native/native_functions.yaml'
        text = (Path(torchgen.__file__).parent / native).read_text()
        self.entries = {}
        self.outs = defaultdict(list)
        for entry in yaml.load(text, yaml.CSafeLoader):
            name = overloaded(entry['func'].split('(')[0])
            self.entries[name] = entry
            if 'out' in name.split('.')[1]:
                self.outs[name.split('.')[0]].append(name)

    def on_mps(self, operator: str) -> bool:
        entry = self.entries[operator]
        if 'structured_delegate' in entry:
            return self.on_mps(overloaded(entry['structured_delegate']))
        if 'dispatch' not in entry:  # made of other operators
            return True
        devices = ', '.join(entry['dispatch']).split(', ')
        if not any(device.startswith('Composite') for device in devices):
            return 'MPS' in devices
        # For every device, often by way of what writes into an output.
        ways = self.outs[operator.split('.')[0]]
        return operator in ways or not ways or any(map(self.on_mps, ways))


@pytest.fixture(scope='module')
def kernels() -> Kernels:
    return Kernels()


def test_the_table_knows_what_mps_has_and_has_not(kernels: Kernels) -> None:
    there = ['bmm.default', 'amax.default', 'view.dtype', 'ones_like.default']
    absent = ['frexp.Tensor', '_pdist_forward.default']
    assert all(map(kernels.on_mps, there))
    assert not any(map(kernels.on_mps, absent))


def test_a_step_takes_nothing_that_mps_does_not_have(
    model: nn.Module, kernels: Kernels
) -> None:
    with Operators() as called:
        step(model, half=False)

    assert not called.in_float64
    # The next test's, and what PyTorch chooses by device.
    others = ('serkd_mm.', '_scaled_dot_product_')
    names = {n for n in called.names if not n.startswith(others)}
    assert '_log_softmax.default' in names
    assert {n for n in names if not kernels.on_mps(n)} == set()


def meta_smooth_l1() -> bool:
    """Whether it is written into tensors without values, in 2.1 not."""
    value = torch.empty(1, device='meta')
    try:
        torch._C._nn.smooth_l1_loss(value, value, 0, out=value.clone())
    except TypeError:
        return False
    return True


@pytest.mark.skipif(
    not meta_smooth_l1(), reason='this PyTorch gives meta losses no output'
)
@pytest.mark.parametrize('relation', ['angle_chunked', 'distance_chunked'])
def test_so_do_the_operators_of_relation_losses(
    relation: str, kernels: Kernels
) -> None:
    student = torch.empty(4, 49, 8, device='meta')
    teacher = torch.empty(4, 49, 12, device='meta')
    with Operators() as called:
        loss, laplacian, scale = relation_fused.relation_forward(
            student, teacher, relation, True
        )
        relation_fused.relation_backward(student, laplacian, scale, loss)

    assert not called.in_float64
    assert 'bmm.default' in called.names
    assert {n for n in called.names if not kernels.on_mps(n)} == set()
