# Copyright (c) The serkd_mm authors. All rights reserved.
from .conv_attention import ConvAttention
from .conv_attention_deit import ConvAttentionDeiT
from .thin_resnet_cifar import ThinResNetCIFAR
from .torchvision_backbone import TorchvisionBackbone

__all__ = [
    'ConvAttention',
    'ConvAttentionDeiT',
    'ThinResNetCIFAR',
    'TorchvisionBackbone',
]
