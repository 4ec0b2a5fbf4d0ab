# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

from mmpretrain.models.backbones import DistilledVisionTransformer
from mmpretrain.models.heads import (
    DeiTClsHead,
    LinearClsHead,
    VisionTransformerClsHead,
)
from torch import nn


def check_head(name: str, network: nn.Module) -> None:
    """Refuse a head for other tokens than those that the backbone puts out.

    MMPretrain's heads meet the difference in a tuple that they cannot
    multiply, or take the images of a batch of two for the two tokens.

    Args:
        name: What to call the network.
        network: Any module; one without backbone and head is left alone.

    Raises:
        TypeError: If a DeiT head has no distillation token to read, or
            another head gets one beside the class token.
    """
    backbone: Any = getattr(network, 'backbone', None)
    head = getattr(network, 'head', None)
    if backbone is None or head is None:
        return
    kind, reads = type(backbone).__name__, type(head).__name__
    out_type = getattr(backbone, 'out_type', 'cls_token')
    if isinstance(head, DeiTClsHead):
        needs = (
            f'{name}.head is a {reads} and needs a class and a distillation '
            f'token, but {name}.backbone, a {kind}, '
        )
        names = (key for key, _ in backbone.named_parameters())
        if not any(key.split('.')[-1] == 'dist_token' for key in names):
            raise TypeError(
                f'{needs}has no dist_token; use '
                "backbone=dict(type='DistilledVisionTransformer'), or "
                "head=dict(type='VisionTransformerClsHead') for this backbone"
            )
        if out_type != 'cls_token':
            raise TypeError(
                f'{needs}has out_type={out_type!r}; set '
                "backbone.out_type='cls_token', or use "
                "head=dict(type='VisionTransformerClsHead')"
            )
        return
    if (
        isinstance(backbone, DistilledVisionTransformer)
        and isinstance(head, (VisionTransformerClsHead, LinearClsHead))
        and out_type == 'cls_token'
        and getattr(network, 'neck', None) is None
    ):
        raise TypeError(
            f'{name}.head is a {reads} and takes one token, but '
            f'{name}.backbone, a {kind}, puts out a class and a distillation '
            "token; use head=dict(type='DeiTDistillHead'), with "
            'label_dist_head=True where no teacher trains it, or '
            "backbone=dict(type='VisionTransformer')"
        )


@contextlib.contextmanager
def head_widths_named(name: str, network: nn.Module) -> Iterator[None]:
    """Inside, a head that gets features of another width says so.

    What a backbone puts out shows only when it runs, and the product of two
    matrices that do not fit names neither.

    Args:
        name: What to call the network.
        network: Any module; one without a head is left alone.

    Raises:
        ValueError: If a linear layer of the head gets other features than it
            was built for.
    """

    def check(key: str, layer: nn.Linear, args: tuple) -> None:
        width = args[0].shape[-1] if args else layer.in_features
        if width != layer.in_features:
            raise ValueError(
                f'{name}.{key} takes {layer.in_features} channels, but gets '
                f'{width}; set {name}.head.in_channels={width}, or let '
                f'{name}.backbone put out {layer.in_features} (its arch, '
                'depth or out_indices)'
            )

    with contextlib.ExitStack() as hooks:
        for key, layer in network.named_modules():
            if key.startswith('head.') and isinstance(layer, nn.Linear):
                hook = functools.partial(check, key)
                handle = layer.register_forward_pre_hook(hook)
                hooks.callback(handle.remove)
        yield
