# Copyright (c) The serkd_mm authors. All rights reserved.
"""Mixed precision without a loss scale, on a CPU."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mmengine.optim import OptimWrapper, build_optim_wrapper
from torch import nn
from torch.profiler import profile
from torch.utils.checkpoint import checkpoint

from serkd_mm import compat
from serkd_mm.engine.optimizers import bfloat16_optim_wrapper, mix_precision
from serkd_mm.engine.optimizers.bfloat16_optim_wrapper import cpu_attention

from ..models.builders import build
from .runners import make_runner

WRAPPER = dict(type='Bfloat16OptimWrapper', optimizer=dict(type='SGD', lr=0.1))


def wrapper(model: nn.Module, **settings: bool) -> OptimWrapper:
    return build_optim_wrapper(model, dict(copy.deepcopy(WRAPPER), **settings))


def test_networks_compute_in_bfloat16_and_weights_stay_in_float32(
    tmp_path: Path,
) -> None:
    model = build()
    seen = set()
    for network in (model.student, model.teacher):
        network.backbone.layers[0].ffn.register_forward_hook(
            lambda module, args, output: seen.add(args[0].dtype)
        )
        network.backbone.layers[0].attn.proj.register_forward_hook(
            lambda module, args, output: seen.add(output.dtype)
        )
    before = copy.deepcopy(model.student.state_dict())

    make_runner(tmp_path, model, optim_wrapper=copy.deepcopy(WRAPPER)).train()

    assert torch.bfloat16 in seen
    after = model.student.state_dict()
    assert {value.dtype for value in after.values()} == {torch.float32}
    assert not torch.equal(
        after['head.layers.head.weight'], before['head.layers.head.weight']
    )


def test_an_update_is_that_of_autocast_by_hand() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 2))
    by_hand = copy.deepcopy(model)
    inputs = torch.randn(5, 8)
    optim_wrapper = wrapper(model)

    with optim_wrapper.optim_context(model):
        loss = model(inputs).square().mean()
    optim_wrapper.update_params(loss)

    with torch.autocast('cpu', torch.bfloat16):
        expected = by_hand(inputs).square().mean()
    expected.backward()
    torch.optim.SGD(by_hand.parameters(), lr=0.1).step()
    assert torch.equal(loss, expected)
    for actual, wanted in zip(model.parameters(), by_hand.parameters()):
        assert torch.equal(actual, wanted)
    assert model(inputs).dtype == torch.float32


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(16, 48)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        heads = self.project(tokens).unflatten(-1, (3, 2, 8))
        return F.scaled_dot_product_attention(*heads.permute(2, 0, 3, 1, 4))


@pytest.mark.parametrize('fused', [True, False])
def test_attention_is_fused_unless_it_is_switched_off(fused: bool) -> None:
    model = Attention()
    optim_wrapper = wrapper(model, fused_attention=fused)

    with profile() as events, optim_wrapper.optim_context(model):
        model(torch.randn(2, 5, 16)).sum().backward()

    names = {event.key for event in events.key_averages()}
    assert any('flash_attention' in name for name in names) == fused
    assert torch.backends.cuda.flash_sdp_enabled()


def forward(
    model: nn.Module, optim_wrapper: OptimWrapper, tokens: torch.Tensor
) -> None:
    with optim_wrapper.optim_context(model):
        assert not torch.backends.cuda.flash_sdp_enabled()
        model(tokens)


def test_the_switch_is_put_back_after_an_error() -> None:
    model = Attention()
    optim_wrapper = wrapper(model, fused_attention=False)

    with pytest.raises(RuntimeError, match='shapes'):
        forward(model, optim_wrapper, torch.randn(2, 5, 7))

    assert torch.backends.cuda.flash_sdp_enabled()


def test_what_was_switched_off_before_stays_so() -> None:
    torch.backends.cuda.enable_flash_sdp(False)
    try:
        with cpu_attention(fused=True):
            assert not torch.backends.cuda.flash_sdp_enabled()
    finally:
        torch.backends.cuda.enable_flash_sdp(True)


@pytest.mark.parametrize('reentrant', [True, False])
def test_what_backward_computes_again_attends_as_before(
    reentrant: bool,
) -> None:
    torch.manual_seed(0)
    model = Attention()
    tokens = torch.randn(2, 5, 16, requires_grad=True)
    optim_wrapper = wrapper(model, fused_attention=False)

    with profile() as events:
        with optim_wrapper.optim_context(model):
            output = checkpoint(model, tokens, use_reentrant=reentrant)
        optim_wrapper.backward(output.sum())

    names = {event.key for event in events.key_averages()}
    assert not any('flash_attention' in name for name in names)


AMP = dict(type='AmpOptimWrapper', loss_scale='dynamic')
BFLOAT16 = dict(type='Bfloat16OptimWrapper', fused_attention=False)


@pytest.mark.parametrize(
    ('given', 'device', 'wanted'),
    [
        (dict(), 'cpu', dict(type='Bfloat16OptimWrapper')),
        (AMP, 'cpu', dict(type='Bfloat16OptimWrapper')),
        (dict(dtype='float16'), 'cpu', dict(type='Bfloat16OptimWrapper')),
        (BFLOAT16, 'cpu', BFLOAT16),
        (AMP, 'mps', dict(type='Bfloat16OptimWrapper')),
        (dict(type='OptimWrapper'), 'cuda', AMP),
        (dict(dtype='bfloat16'), 'cuda', dict(AMP, dtype='bfloat16')),
        (dict(AMP, loss_scale=8.0), 'cuda', dict(AMP, loss_scale=8.0)),
        (BFLOAT16, 'cuda', BFLOAT16),
    ],
)
def test_what_mixed_precision_makes_of_a_config(
    given: dict, device: str, wanted: dict
) -> None:
    cfg = dict(given, clip_grad=dict(max_norm=1.0))
    mix_precision(cfg, device)
    assert cfg == dict(wanted, clip_grad=dict(max_norm=1.0))


@pytest.mark.parametrize('emulated', [True, False])
def test_a_cpu_that_emulates_bfloat16_says_so_once(
    emulated: bool, logged: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = logged(bfloat16_optim_wrapper)
    monkeypatch.setattr(compat, 'emulates_bfloat16', lambda: emulated)
    bfloat16_optim_wrapper._warn_of_emulation.cache_clear()
    model = nn.Linear(2, 2)
    optim_wrapper = wrapper(model)

    for _ in range(2):
        with optim_wrapper.optim_context(model):
            model(torch.randn(1, 2))

    assert len(said) == emulated
    assert all('no instructions for bfloat16' in text for text in said)
    bfloat16_optim_wrapper._warn_of_emulation.cache_clear()
