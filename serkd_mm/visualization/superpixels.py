# Copyright (c) The serkd_mm authors. All rights reserved.
"""From the association of tokens with superpixels to pictures."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor, nn

from ..models.connectors import SuperpixelTokenizer
from .agreement import boundaries

if TYPE_CHECKING:
    from ..models.algorithms import FrozenTeacherDistill
    from ..models.distillers import SeRKDDistiller


class Assignment(NamedTuple):
    """Association of the tokens of a batch with superpixels.

    Attributes:
        weights: ``(B, N, K)``, rows sum to 1.
        hw: Height and width of the token grid.
    """

    weights: Tensor
    hw: tuple[int, int]


@torch.no_grad()
def superpixel_assignments(
    model: FrozenTeacherDistill, inputs: Tensor
) -> dict[str, Assignment]:
    """Superpixels that teacher and student form on a batch.

    Args:
        model: Algorithm whose distiller has superpixel connectors; put into
            eval mode by the caller.
        inputs: Batch normalised for the student, ``(B, 3, H, W)``.

    Returns:
        The association under ``'teacher'`` and ``'student'``. A side whose
        records pass through no superpixel connector is left out.

    Raises:
        ValueError: If no record passes through a superpixel connector.
    """
    distiller = model.distiller
    records = superpixel_records(distiller)
    if not records:
        raise ValueError(
            'no loss_forward_mappings entry names a connector that ends in '
            'SuperpixelTokenizer, so this config forms no superpixels'
        )
    with distiller.teacher_recorders:
        model.teacher(model.teacher_inputs(inputs))
    with distiller.student_recorders:
        model.student(inputs)
    assignments = {}
    for side, record in records.items():
        *before, tokenizer = distiller.connectors[record['connector']]
        raw = {
            k: v for k, v in record.items() if not k.startswith('connector')
        }
        tokens = distiller.get_record(**raw)
        for connector in before:
            tokens = connector(tokens)
        assignments[side] = Assignment(tokenizer.assignment(tokens), tokens.hw)
    distiller.release_records()
    return assignments


def superpixel_labels(
    assignment: Assignment, image_hw: tuple[int, int]
) -> Tensor:
    """Index of the strongest superpixel at every pixel.

    The soft association is upsampled bilinearly before the maximum is taken,
    so boundaries run between tokens instead of along their edges.

    Args:
        assignment: Association of a batch.
        image_hw: Height and width of the images, in pixels.

    Returns:
        Labels in [0, K), ``(B, H, W)``, int64.
    """
    maps = assignment.weights.transpose(1, 2).unflatten(2, assignment.hw)
    maps = F.interpolate(maps, image_hw, mode='bilinear', align_corners=False)
    return maps.argmax(dim=1)


def draw_superpixels(
    image: np.ndarray,
    labels: np.ndarray,
    mode: str = 'boundary',
    color: tuple[int, int, int] = (255, 210, 0),
) -> np.ndarray:
    """Draw superpixels over an image.

    Args:
        image: ``(H, W, 3)`` uint8.
        labels: Superpixel of every pixel, ``(H, W)``.
        mode: ``'boundary'`` draws their outlines, ``'mean'`` paints each in
            its mean colour.
        color: Colour of the outlines, in the channel order of the image.

    Returns:
        ``(H, W, 3)`` uint8, a new array.

    Raises:
        ValueError: If sizes differ or ``mode`` is unknown.
    """
    if image.shape[:2] != labels.shape:
        raise ValueError(
            f'labels of shape {labels.shape} do not fit an image of shape '
            f'{image.shape}'
        )
    drawn = image.copy()
    if mode == 'mean':
        for label in np.unique(labels):
            inside = labels == label
            drawn[inside] = image[inside].mean(axis=0).round()
    elif mode == 'boundary':
        edge = boundaries(labels).astype(np.uint8)
        # As wide on a sheet whatever the size of the image.
        width = max(1, max(labels.shape) // 200)
        drawn[cv2.dilate(edge, np.ones((width, width))) > 0] = color
    else:
        raise ValueError(f"mode must be 'boundary' or 'mean', got {mode!r}")
    return drawn


def superpixel_records(distiller: SeRKDDistiller) -> dict[str, dict]:
    """The first record of each side that becomes superpixels."""
    records: dict[str, dict] = {}
    for side, record in _records_of_superpixels(distiller):
        records.setdefault(side, record)
    return records


def warn_of_others(distiller: SeRKDDistiller) -> None:
    """Say in the log whose superpixels are not those of the pictures."""
    first = superpixel_records(distiller)
    drawn = {record['connector'] for record in first.values()}
    every = {r['connector'] for _, r in _records_of_superpixels(distiller)}
    if every - drawn:
        print_log(
            f'Pictures show superpixels of {", ".join(sorted(drawn))}, not '
            f'those of {", ".join(sorted(every - drawn))}',
            logger='current',
            level=logging.WARNING,
        )


def _records_of_superpixels(
    distiller: SeRKDDistiller,
) -> Iterator[tuple[str, dict]]:
    """Sides and records that become superpixels, in the order of losses."""
    for mapping in distiller.loss_forward_mappings.values():
        for record in mapping.values():
            name = record.get('connector')
            chain = distiller.connectors[name] if name else None
            if isinstance(chain, nn.Sequential) and isinstance(
                chain[-1], SuperpixelTokenizer
            ):
                side = 'student' if record['from_student'] else 'teacher'
                yield side, record
