# Copyright (c) The serkd_mm authors. All rights reserved.
from .algorithms import FrozenTeacherDistill
from .backbones import ThinResNetCIFAR
from .connectors import SuperpixelTokenizer, TokenMap, VisualTokens
from .distillers import SeRKDDistiller
from .heads import DeiTDistillHead
from .losses import TokenAngleLoss, TokenDistanceLoss, TokenFeatureLoss

__all__ = [
    'DeiTDistillHead',
    'FrozenTeacherDistill',
    'SeRKDDistiller',
    'SuperpixelTokenizer',
    'ThinResNetCIFAR',
    'TokenAngleLoss',
    'TokenDistanceLoss',
    'TokenFeatureLoss',
    'TokenMap',
    'VisualTokens',
]
