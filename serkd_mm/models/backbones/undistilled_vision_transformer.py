# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

from typing import Any

import torch
from mmpretrain.models.backbones import VisionTransformer
from mmpretrain.registry import MODELS


@MODELS.register_module()
class UndistilledVisionTransformer(VisionTransformer):
    """ViT that takes over a DeiT's weights without its distillation token.

    When it loads weights of MMPretrain's ``DistilledVisionTransformer``, the
    distillation token and its position embedding are left out. Its own
    weights are those of MMPretrain's ``VisionTransformer``, which loads them
    as well.

    Arguments are those of :class:`mmpretrain.models.VisionTransformer`.
    """

    def _prepare_pos_embed(
        self, state_dict: dict, prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Called before weights are loaded."""
        if state_dict.pop(f'{prefix}dist_token', None) is not None:
            name = f'{prefix}pos_embed'
            # Class token, distillation token, patches.
            embedding = state_dict[name]
            state_dict[name] = torch.cat(
                [embedding[:, :1], embedding[:, 2:]], dim=1
            )
        super()._prepare_pos_embed(state_dict, prefix, *args, **kwargs)
