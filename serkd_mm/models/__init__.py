# Copyright (c) The serkd_mm authors. All rights reserved.
from .algorithms import FrozenTeacherDistill
from .backbones import (
    ConvAttention,
    ConvAttentionDeiT,
    ThinResNetCIFAR,
    TorchvisionBackbone,
    UndistilledVisionTransformer,
)
from .connectors import (
    FeatureMapTokenizer,
    SuperpixelTokenizer,
    TokenAligner,
    TokenMap,
    TokenResizer,
    TokensToMaps,
    VisualTokens,
)
from .distillers import SeRKDDistiller
from .heads import DeiTDistillHead
from .losses import (
    CSKDLoss,
    HardDistillLoss,
    InstanceAngleLoss,
    InstanceDistanceLoss,
    TokenAngleLoss,
    TokenDistanceLoss,
    TokenFeatureLoss,
)

__all__ = [
    'CSKDLoss',
    'ConvAttention',
    'ConvAttentionDeiT',
    'DeiTDistillHead',
    'FeatureMapTokenizer',
    'FrozenTeacherDistill',
    'HardDistillLoss',
    'InstanceAngleLoss',
    'InstanceDistanceLoss',
    'SeRKDDistiller',
    'SuperpixelTokenizer',
    'ThinResNetCIFAR',
    'TokenAligner',
    'TokenAngleLoss',
    'TokenDistanceLoss',
    'TokenFeatureLoss',
    'TokenMap',
    'TokenResizer',
    'TokensToMaps',
    'TorchvisionBackbone',
    'UndistilledVisionTransformer',
    'VisualTokens',
]
