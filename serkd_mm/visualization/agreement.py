# Copyright (c) The serkd_mm authors. All rights reserved.
"""How far two divisions of an image into regions agree."""

from __future__ import annotations

import math

import cv2
import numpy as np


def normalized_mutual_information(a: np.ndarray, b: np.ndarray) -> float:
    """Mutual information of two labellings over the mean of their entropies.

    Args:
        a: Region of every pixel, integers of any shape.
        b: The same of the other labelling.

    Returns:
        From 0 (independent) to 1 (the same regions, whatever their numbers).
        Two labellings of one region each are the same.

    Raises:
        ValueError: If the shapes differ.
    """
    if a.shape != b.shape:
        raise ValueError(f'labellings of shapes {a.shape} and {b.shape}')
    first, second = (np.unique(x, return_inverse=True)[1] for x in (a, b))
    first, second = first.ravel(), second.ravel()
    joint = np.zeros((first.max() + 1, second.max() + 1))
    np.add.at(joint, (first, second), 1 / first.size)
    rows, columns = joint.sum(1), joint.sum(0)
    entropy = _entropy(rows) + _entropy(columns)
    if entropy == 0:
        return 1.0
    mutual = entropy - _entropy(joint.ravel())
    return float(np.clip(2 * mutual / entropy, 0, 1))


def boundary_recall(
    labels: np.ndarray, reference: np.ndarray, tolerance: int | None = None
) -> float:
    """Share of the reference's boundaries that are boundaries here too.

    Args:
        labels: Region of every pixel, ``(H, W)``.
        reference: The regions whose boundaries are to be found, ``(H, W)``.
        tolerance: Distance in pixels (chessboard) that still counts; None
            takes 0.0025 of the diagonal, rounded up, as superpixels are
            compared (Stutz et al., 2018), so that an image counts alike in
            any resolution.

    Returns:
        From 0 to 1; nan where the reference is one region.

    Raises:
        ValueError: If the shapes differ.
    """
    if labels.shape != reference.shape:
        raise ValueError(
            f'labels of shape {labels.shape} for a reference of shape '
            f'{reference.shape}'
        )
    wanted = boundaries(reference)
    if not wanted.any():
        return float('nan')
    if tolerance is None:
        tolerance = math.ceil(0.0025 * math.hypot(*labels.shape))
    size = 2 * tolerance + 1
    near = cv2.dilate(
        boundaries(labels).astype(np.uint8), np.ones((size, size), np.uint8)
    )
    return float(near[wanted].mean())


def boundaries(labels: np.ndarray) -> np.ndarray:
    """Pixels whose right or lower neighbour is of another region."""
    edge = np.zeros(labels.shape, dtype=bool)
    edge[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    edge[:-1] |= labels[:-1] != labels[1:]
    return edge


def _entropy(shares: np.ndarray) -> float:
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum())
