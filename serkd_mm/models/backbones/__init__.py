# Copyright (c) The serkd_mm authors. All rights reserved.
from .thin_resnet_cifar import ThinResNetCIFAR

__all__ = ['ThinResNetCIFAR']
