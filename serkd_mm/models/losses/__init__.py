# Copyright (c) The serkd_mm authors. All rights reserved.
from .cskd_loss import CSKDLoss
from .hard_distill_loss import HardDistillLoss
from .instance_angle_loss import InstanceAngleLoss
from .instance_distance_loss import InstanceDistanceLoss
from .token_angle_loss import TokenAngleLoss
from .token_distance_loss import TokenDistanceLoss
from .token_feature_loss import TokenFeatureLoss

__all__ = [
    'CSKDLoss',
    'HardDistillLoss',
    'InstanceAngleLoss',
    'InstanceDistanceLoss',
    'TokenAngleLoss',
    'TokenDistanceLoss',
    'TokenFeatureLoss',
]
