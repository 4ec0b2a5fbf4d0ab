# Copyright (c) The serkd_mm authors. All rights reserved.
"""What has to change in a student of the zoo for it to be distilled."""

from __future__ import annotations

import inspect
from typing import Any

from mmengine.model import BaseModel
from mmpretrain.models.classifiers import BaseClassifier
from mmpretrain.models.heads import DeiTClsHead

from .trace import NetworkTrace
from .zoo import ZooNetwork

IMAGENET_CLASSES = 1000
# Stands in a config for a path that its reader fills in.
UNKNOWN_WEIGHTS = 'PRETRAINED.pth'


def student_changes(
    network: ZooNetwork,
    model: BaseModel,
    trace: NetworkTrace,
    distilled: bool,
) -> tuple[dict[str, Any], list[str]]:
    """Find the entries of the student's model that have to be different.

    Args:
        network: The student.
        model: The student as it was built.
        trace: What its run showed.
        distilled: Whether it learns from the teacher's logits.

    Returns:
        The new entries by name, and a sentence about each.

    Raises:
        ValueError: If labels cannot train the student.
    """
    changes: dict[str, Any] = {}
    notes: list[str] = []
    if isinstance(getattr(model, 'head', None), DeiTClsHead):
        changes['head'] = _token_head(network, distilled)
        notes.append(
            'DeiTDistillHead: the labels train the class token, the teacher '
            'the distillation token.'
            if distilled
            else 'DeiTDistillHead: the labels train both tokens.'
        )
    elif _has_second_classifier(network, model):
        changes['head'] = dict(network.cfg.model.head, distillation=False)
        notes.append(
            f'{type(model.head).__name__} is trained without its second '
            'classifier, for which MMPretrain has no training.'
        )
    elif trace.logits is None and not _classifies(model):
        changes.update(_added_head(network, trace))
        notes.append(f'{network.name} has no head: a linear one is added.')
    initial = _initial_weights(network)
    if initial:
        changes['backbone'] = dict(
            network.cfg.model.backbone, init_cfg=initial
        )
        notes.append(
            'The student starts from pre-trained weights'
            + (
                ': fill in their path.'
                if initial['checkpoint'] == UNKNOWN_WEIGHTS
                else '.'
            )
        )
    return changes, notes


def _has_second_classifier(network: ZooNetwork, model: BaseModel) -> bool:
    """Whether a head, LeViT's say, has a classifier for a teacher's sake."""
    head = network.cfg.model.get('head')
    if not head:
        return False
    arguments = inspect.signature(type(model.head)).parameters
    default = getattr(arguments.get('distillation'), 'default', False)
    return bool(head.get('distillation', default))


def _classifies(model: BaseModel) -> bool:
    """Whether labels train a model though it puts out no single logits."""
    head = getattr(model, 'head', None)
    return isinstance(model, BaseClassifier) and hasattr(head, 'num_classes')


def _initial_weights(network: ZooNetwork) -> dict[str, Any] | None:
    """Weights to start from where the config leaves them to the reader."""
    initial = network.cfg.model.backbone.get('init_cfg')
    if isinstance(initial, dict) and initial.get('checkpoint') == '':
        checkpoint = network.pretrained or UNKNOWN_WEIGHTS
        return dict(initial, checkpoint=checkpoint)
    if not network.cfg.model.get('head') and network.checkpoint:
        # What the zoo has without a head is there to start from.
        return dict(
            type='Pretrained',
            checkpoint=network.checkpoint,
            prefix='backbone.',
        )
    return None


def _token_head(network: ZooNetwork, distilled: bool) -> dict:
    """DeiT's head with a loss for each token."""
    head = dict(network.cfg.model.head, type='DeiTDistillHead')
    head.pop('label_dist_head', None)
    if not distilled:
        head['label_dist_head'] = True
    return head


def _added_head(network: ZooNetwork, trace: NetworkTrace) -> dict:
    """A linear head, with pooling where the backbone ends in a map."""
    model = network.cfg.model
    if model.get('head'):
        raise ValueError(
            f'the student {network.name} is a {model.type} whose head gives '
            'no logits, so that labels cannot train it; choose a classifier'
        )
    head = dict(
        type='LinearClsHead',
        num_classes=IMAGENET_CLASSES,
        in_channels=trace.features[0],
    )
    if len(trace.features) == 3:
        return dict(neck=dict(type='GlobalAveragePooling'), head=head)
    return dict(head=head)
