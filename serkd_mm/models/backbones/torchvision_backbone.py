# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

import torchvision
from mmpretrain.models.backbones.base_backbone import BaseBackbone
from mmpretrain.registry import MODELS
from torch import Tensor
from torchvision.models import (
    EfficientNet,
    RegNet,
    ResNet,
    get_model,
    list_models,
)

from ...near_names import did_you_mean

# Networks whose forward pass is their children, one after the other, up to
# the pooling, and whose classifier is one linear layer.
FAMILIES = (RegNet, ResNet, EfficientNet)


@MODELS.register_module()
class TorchvisionBackbone(BaseBackbone):
    r"""A convolutional network of torchvision up to its last feature map.

    For architectures that MMPretrain lacks, RegNetY above all. Modules and
    parameters keep torchvision's names, so that a recorder's source is for
    instance ``backbone.trunk_output.block3``. The classifier is a head of
    MMPretrain's, ``LinearClsHead`` behind ``GlobalAveragePooling``. Such a
    teacher takes torchvision's own checkpoints once their keys are put below
    ``backbone`` and ``head``:

    - RegNet and ResNet:
      ``[(r'^fc\.', 'head.fc.'), (r'^(?!head\.)', 'backbone.')]``
    - EfficientNet: ``r'^classifier\.1\.'`` in the place of ``r'^fc\.'``

    as ``teacher_revise_keys`` of :class:`FrozenTeacherDistill`.

    Args:
        name: Torchvision's name of the network, ``'regnet_y_16gf'`` say.
        init_cfg: Initialisation config; torchvision's own initialisation
            without.

    Raises:
        ValueError: If torchvision has no such classifier, or it is not of a
            family that ends in a feature map and one linear layer.
    """

    def __init__(self, name: str, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        names = list_models(module=torchvision.models)
        if str(name).lower() not in names:
            meant = did_you_mean(str(name), {known: known for known in names})
            raise ValueError(
                f'{name!r} is no classifier of torchvision{meant or "."} '
                'torchvision.models.list_models(module=torchvision.models) '
                'lists them'
            )
        network = get_model(name, weights=None)
        if not isinstance(network, FAMILIES):
            families = ', '.join(family.__name__ for family in FAMILIES)
            raise ValueError(
                f'{name!r} is a {type(network).__name__}; TorchvisionBackbone '
                f'takes networks of the families {families}'
            )
        for child, module in network.named_children():
            if child == 'avgpool':
                break
            self.add_module(child, module)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Last feature map, ``(B, C, H, W)``, of images ``(B, 3, h, w)``."""
        for module in self.children():
            x = module(x)
        return (x,)
