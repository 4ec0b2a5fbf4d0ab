# Copyright (c) The serkd_mm authors. All rights reserved.
from .thin_resnet_cifar import ThinResNetCIFAR
from .torchvision_backbone import TorchvisionBackbone

__all__ = ['ThinResNetCIFAR', 'TorchvisionBackbone']
