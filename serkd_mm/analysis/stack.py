# Copyright (c) The serkd_mm authors. All rights reserved.
"""Running modules and what they put out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from ..models.connectors import TokenMap


def shape_of(value: Any) -> tuple[int, ...] | str:
    """Shape of a tensor or of tokens, shapes of several, else the type."""
    if isinstance(value, TokenMap):
        value = value.tokens
    if isinstance(value, Tensor):
        return tuple(value.shape)
    if isinstance(value, (tuple, list)) and len(value) < 5:
        return f'[{", ".join(str(shape_of(item)) for item in value)}]'
    return type(value).__name__


@contextmanager
def call_stack(network: nn.Module) -> Iterator[list[str]]:
    """Names of the modules that are running, the innermost one last."""
    stack: list[str] = []

    def enter(name: str) -> None:
        stack.append(name)

    def leave(*_: Any) -> None:
        stack.pop()

    hooks = []
    for name, module in network.named_modules():
        hooks.append(
            module.register_forward_pre_hook(lambda *_, name=name: enter(name))
        )
        hooks.append(module.register_forward_hook(leave))
    try:
        yield stack
    finally:
        for hook in hooks:
            hook.remove()
