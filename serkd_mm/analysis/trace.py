# Copyright (c) The serkd_mm authors. All rights reserved.
"""Where a network has tokens and logits, found by running it."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..models.connectors.token_map import grid_like, is_grid_of

BACKBONE = 'backbone'
HEAD = 'head'


class SizeError(ValueError):
    """A network does not run on images of a size."""


@dataclass(frozen=True)
class TokenSource:
    """A module whose output can be taken as visual tokens.

    Attributes:
        source: Name of the module.
        hw: Height and width of the token grid.
        channels: Width of the tokens.
        num_prefix_tokens: Tokens in front of the visual ones.
        num_suffix_tokens: Tokens behind them.
        is_map: Whether the output is a map ``(B, C, H, W)``, else it is a
            sequence ``(B, L, C)``.
        index: Which of several outputs it is; None of a single one.
    """

    source: str
    hw: tuple[int, int]
    channels: int
    num_prefix_tokens: int
    is_map: bool
    index: int | None = None
    num_suffix_tokens: int = 0


@dataclass(frozen=True)
class NetworkTrace:
    """What a recorder can be pointed at.

    Attributes:
        tokens: The last module of every token grid, the deepest one last.
        logits: Module that puts out the network's prediction, None without
            a classification head.
        num_classes: Number of logits.
        features: Shape of the last features, per image, without a
            classification head.
        outputs: How many tensors the network puts out.
    """

    tokens: tuple[TokenSource, ...]
    logits: str | None
    num_classes: int | None
    features: tuple[int, ...] = ()
    outputs: int = 1


@dataclass
class _Call:
    """One output of a module's call: what called it, what it put out."""

    name: str
    caller: str
    sequential: bool
    index: int | None = None
    shape: tuple[int, ...] = ()
    prefix: int = 0
    suffix: int = 0
    logits: Tensor | None = None


@torch.no_grad()
def trace_network(network: nn.Module, size: tuple[int, int]) -> NetworkTrace:
    """Run a network on two random images and note its tokens and logits.

    A grid's tokens are taken from the last module that the backbone itself
    calls and whose output has that grid: a stage, a block, a final norm; of a
    backbone that is but another network, from those that this one calls. A
    stage that ends in another grid, or returns no tensor, is asked for its
    last block too; of several tensors each counts. Prefix tokens are the
    leading positions of the first sequence of a length that are the same in
    both images: a class token is no function of the image before the first
    attention.

    Args:
        network: Model with a ``backbone`` and, to classify, a ``head``. It is
            in eval mode afterwards.
        size: Height and width of the images, in pixels.

    Raises:
        SizeError: If the network does not run at this size.
        ValueError: If it has no backbone, puts out no tensor, or computes
            something else on every run.
    """
    if not isinstance(getattr(network, BACKBONE, None), nn.Module):
        raise ValueError(
            f'{type(network).__name__} has no module named {BACKBONE!r}, '
            'where tokens are looked for; give the model of a classifier'
        )
    network.eval()
    images = torch.randn(2, 3, *size)
    calls, output = _run(network, images)
    _, again = _run(network, images)
    if not all(map(torch.equal, _tensors(output), _tensors(again))):
        raise ValueError(
            f'{type(network).__name__} computes something else every time it '
            'sees the same images (a random mask?), so that its tokens belong '
            'to no fixed places of the image'
        )
    sources = _token_sources(calls, size)
    logits = _logits(calls, output)
    outputs = _tensors(output)
    if not outputs:
        raise ValueError(
            f'{type(network).__name__} puts out {type(output).__name__} and '
            'no tensor; give the model of a classifier'
        )
    last = outputs[-1]
    if logits is None:
        shape = tuple(last.shape[1:])
        return NetworkTrace(sources, None, None, shape, len(outputs))
    return NetworkTrace(sources, logits, last.shape[1])


def _tensors(output: Any) -> list[Tensor]:
    """All tensors of a nested output."""
    if isinstance(output, dict):
        output = list(output.values())
    if isinstance(output, (tuple, list)):
        return [tensor for item in output for tensor in _tensors(item)]
    return [output] if isinstance(output, Tensor) else []


def _run(network: nn.Module, images: Tensor) -> tuple[list[_Call], Any]:
    """Calls of the network's modules, in the order in which they end."""
    watch = _Watch()
    hooks = []
    for name, module in network.named_modules():
        enter = functools.partial(watch.enter, name)
        hooks.append(module.register_forward_pre_hook(enter))
        hooks.append(module.register_forward_hook(watch.leave))
    try:
        return watch.calls, network(images)
    except Exception as error:
        where = watch.running[-1].name if watch.running else ''
        size = 'x'.join(str(s) for s in images.shape[2:])
        raise SizeError(
            f'{type(network).__name__} does not run on images of {size} '
            f'pixels, in {where or "its forward"} '
            f'({type(error).__name__}: {error})'
        ) from error
    finally:
        for hook in hooks:
            hook.remove()


class _Watch:
    """What modules put out while a network runs on two images.

    Attributes:
        calls: Calls that have ended.
        running: Calls that have not, each inside the one before.
    """

    def __init__(self) -> None:
        self.calls: list[_Call] = []
        self.running: list[_Call] = []
        # Tokens before and behind the visual ones, by length of a sequence.
        self._others: dict[int, tuple[int, int]] = {}

    def enter(self, name: str, module: nn.Module, args: tuple) -> None:
        """A module is called."""
        caller = self.running[-1].name if self.running else ''
        sequential = isinstance(module, nn.Sequential)
        self.running.append(_Call(name, caller, sequential))
        if args:
            self._note_others(args[0])

    def leave(self, module: nn.Module, args: tuple, output: Any) -> None:
        """The module that was called last puts something out."""
        call = self.running.pop()
        if isinstance(output, (tuple, list)):
            for index, item in enumerate(output):
                self._note(replace(call, index=index), item)
        else:
            self._note(call, output)

    def _note(self, call: _Call, output: Any) -> None:
        self.calls.append(call)
        if not isinstance(output, Tensor):
            return
        self._note_others(output)
        call.shape = tuple(output.shape)
        if output.dim() == 3:
            call.prefix, call.suffix = self._others[output.shape[1]]
        if output.dim() == 2 and call.name.startswith(HEAD):
            # What is recorded is the module's whole output.
            call.logits = output if call.index is None else None

    def _note_others(self, value: Any) -> None:
        """Count the tokens before and behind the visual ones.

        In the first sequence of every length, where no image has met them
        yet.
        """
        if not isinstance(value, Tensor) or value.dim() != 3:
            return
        length = value.shape[1]
        if len(value) == 2 and length not in self._others:
            alike = (value[0] == value[1]).all(dim=1).tolist()
            prefix = (alike + [False]).index(False)
            suffix = (alike[:prefix:-1] + [False]).index(False)
            self._others[length] = prefix, suffix
        else:
            self._others.setdefault(length, (0, 0))


def _token_sources(
    calls: list[_Call], size: tuple[int, int]
) -> tuple[TokenSource, ...]:
    """The last source of every grid, in the order of the forward."""
    times = Counter((call.name, call.index) for call in calls)
    parts = {call.name for call in calls if call.caller == BACKBONE}
    if len(parts) == 1:
        # One that is a whole network, as of timm, has its own stages.
        parts |= {call.name for call in calls if call.caller in parts}
    # A sequence of sequences is a list of stages.
    lists = {c.name for c in calls if c.sequential and c.name in parts}
    parts |= {c.name for c in calls if c.sequential and c.caller in lists}
    by_grid: dict[tuple[int, int], TokenSource] = {}
    for call in calls:
        # Several calls of a module are several records.
        if call.name in parts and times[call.name, call.index] == 1:
            for tokens in _stage_tokens(call, calls, size):
                by_grid.pop(tokens.hw, None)
                by_grid[tokens.hw] = tokens
    return tuple(by_grid.values())


def _stage_tokens(
    stage: _Call, calls: list[_Call], size: tuple[int, int]
) -> Iterator[TokenSource]:
    """Tokens of a module that the backbone calls, its last block's first."""
    own = _tokens_of(stage, size)
    block = re.compile(rf'{re.escape(stage.name)}\.\w+\.\d+')
    blocks = [
        call
        for call in calls
        if call.caller == stage.name and block.fullmatch(call.name)
    ]
    inner = _tokens_of(blocks[-1], size) if blocks else None
    if inner and (own is None or inner.hw != own.hw):
        yield inner
    if own:
        yield own


def _tokens_of(call: _Call, size: tuple[int, int]) -> TokenSource | None:
    """Tokens of an output, None if it has none."""
    shape = call.shape
    hw: tuple[int, int] | None
    if len(shape) == 4 and shape[0] == 2:
        hw, is_map, channels = (shape[2], shape[3]), True, shape[1]
    elif len(shape) == 3 and shape[0] == 2:
        hw = grid_like(shape[1] - call.prefix - call.suffix, size)
        is_map, channels = False, shape[2]
    else:
        return None
    if hw is None or hw[0] * hw[1] < 2 or not is_grid_of(hw, size):
        return None
    if channels < 2:  # pooled channels, each in the place of a token
        return None
    return TokenSource(
        call.name,
        hw,
        channels,
        call.prefix,
        is_map,
        call.index,
        call.suffix,
    )


def _logits(calls: list[_Call], output: Any) -> str | None:
    """The first module of the head that puts out the prediction itself."""
    if not isinstance(output, Tensor) or output.dim() != 2:
        return None
    for call in calls:
        logits = call.logits
        if logits is not None and torch.equal(logits, output):
            return call.name
    return None
