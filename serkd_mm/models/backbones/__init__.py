# Copyright (c) The serkd_mm authors. All rights reserved.
from .conv_attention import ConvAttention
from .conv_attention_deit import ConvAttentionDeiT
from .thin_resnet_cifar import ThinResNetCIFAR
from .torchvision_backbone import TorchvisionBackbone
from .undistilled_vision_transformer import UndistilledVisionTransformer

__all__ = [
    'ConvAttention',
    'ConvAttentionDeiT',
    'ThinResNetCIFAR',
    'TorchvisionBackbone',
    'UndistilledVisionTransformer',
]
