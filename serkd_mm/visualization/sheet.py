# Copyright (c) The serkd_mm authors. All rights reserved.
"""Sheets of images and their superpixels."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch

from ..datasets import BrokenImageError, LoadCheckedImage
from ..models.algorithms.renormalize import converts_to_rgb
from ..models.connectors import SuperpixelTokenizer
from ..models.modes import evaluating
from .agreement import boundary_recall, normalized_mutual_information
from .superpixels import (
    draw_superpixels,
    superpixel_assignments,
    superpixel_labels,
)

if TYPE_CHECKING:
    from ..models.algorithms import FrozenTeacherDistill

Labels = dict[str, list[np.ndarray]]

# Smaller images are enlarged, so that outlines can be seen; larger ones take
# memory for what no sheet shows.
SMALLEST = 192
LARGEST = 512
YELLOW = (0, 210, 255)  # BGR


@torch.no_grad()
def superpixels_of_images(
    model: FrozenTeacherDistill,
    images: Sequence[np.ndarray],
    input_hw: tuple[int, int],
    rgb: bool = False,
) -> Labels:
    """Superpixels of teacher and student at the resolution of the images.

    Images are resized whole to the networks' input, aspect ratio or not, and
    the soft association is resized back.

    Args:
        model: Algorithm; its modules keep their modes.
        images: ``(H, W, 3)`` uint8 in BGR, of any sizes.
        input_hw: Height and width that the networks take.
        rgb: Whether they take RGB; see :func:`takes_rgb`.

    Returns:
        Under ``'teacher'`` and ``'student'`` the labels of each image,
        ``(H, W)``.

    Raises:
        ValueError: If the config forms no superpixels.
    """
    inputs = [
        torch.from_numpy(_resized(image, input_hw)).permute(2, 0, 1)
        for image in images
    ]
    if rgb:
        inputs = [image.flip(0) for image in inputs]
    with evaluating(model):
        batch = model.data_preprocessor(dict(inputs=inputs))['inputs']
        found = superpixel_assignments(model, batch)
    return {
        side: [
            superpixel_labels(
                assignment._replace(weights=assignment.weights[i : i + 1]),
                (image.shape[0], image.shape[1]),
            )[0].cpu().numpy()
            for i, image in enumerate(images)
        ]
        for side, assignment in found.items()
    }  # fmt: skip


def takes_rgb(model: FrozenTeacherDistill, pipeline: Sequence[str]) -> bool:
    """Whether what a pipeline hands to the networks is RGB.

    Files are loaded as BGR. Datasets that are no image files, CIFAR for
    example, hold RGB, and their preprocessor leaves it so.

    Args:
        model: Algorithm with the preprocessor.
        pipeline: Type names of the transforms.
    """
    # Types may have a scope in front.
    loads = any(n.rpartition('.')[2].startswith('Load') for n in pipeline)
    return not loads and not converts_to_rgb(model.data_preprocessor)


@contextlib.contextmanager
def clustering(
    model: FrozenTeacherDistill,
    grid_size: int | None = None,
    num_iters: int | None = None,
) -> Iterator[None]:
    """Other settings of all superpixel tokenizers, for as long as it lasts."""
    changes = dict(grid_size=grid_size, num_iters=num_iters)
    wanted = {k: v for k, v in changes.items() if v is not None}
    tokenizers = [
        module
        for module in model.distiller.connectors.modules()
        if isinstance(module, SuperpixelTokenizer)
    ]
    before = [(t, k, getattr(t, k)) for t in tokenizers for k in wanted]
    try:
        for tokenizer, name, _ in before:
            setattr(tokenizer, name, wanted[name])
        yield
    finally:
        for tokenizer, name, value in before:
            setattr(tokenizer, name, value)


def agreement_of(labels: Labels) -> list[dict[str, float]]:
    """Agreement of the student's superpixels with the teacher's, per image.

    Returns:
        ``'nmi'``, normalised mutual information, and ``'boundary recall'`` of
        the teacher's boundaries; empty unless there are both sides.
    """
    if set(labels) != {'student', 'teacher'}:
        return []
    return [
        {
            'nmi': normalized_mutual_information(student, teacher),
            'boundary recall': boundary_recall(student, teacher),
        }
        for student, teacher in zip(labels['student'], labels['teacher'])
    ]


def superpixel_rows(
    images: Sequence[np.ndarray], labels: Labels
) -> dict[str, list[np.ndarray]]:
    """Rows of a sheet: outlines and mean colours of each side.

    Args:
        images: ``(H, W, 3)`` uint8 in BGR.
        labels: What :func:`superpixels_of_images` found.
    """
    return {
        f'{side}: {what}': [
            draw_superpixels(image, found, mode, YELLOW)
            for image, found in zip(images, labels[side])
        ]
        for side in ('teacher', 'student')
        if side in labels
        for mode, what in (('boundary', 'outlines'), ('mean', 'mean colour'))
    }


def draw_sheet(
    rows: Mapping[str, Sequence[np.ndarray]],
    captions: Sequence[str] = (),
    title: str = '',
) -> np.ndarray:
    """Pictures in rows and columns, with titles.

    Args:
        rows: Pictures ``(H, W, 3)`` uint8 in BGR, by title of the row.
        captions: Text over each column.
        title: Text over the sheet.

    Returns:
        ``(H, W, 3)`` uint8 in RGB.
    """
    # Half a second that every start of a training would take.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = max(map(len, rows.values()))
    shapes = [p.shape for pictures in rows.values() for p in pictures]
    tallest = max(height / width for height, width, _ in shapes)
    size = (1.6 * columns + 0.5, (1.6 * tallest + 0.1) * len(rows) + 0.7)
    figure = Figure(figsize=size, dpi=130, layout='constrained')
    canvas = FigureCanvasAgg(figure)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for line, (name, pictures) in zip(grid, rows.items()):
        for axes in line:
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
        for axes, picture in zip(line, pictures):
            axes.imshow(picture[..., ::-1])
        line[0].set_ylabel(name.replace(': ', ':\n'), fontsize=7)
    for axes, caption in zip(grid[0], captions):
        axes.set_title(caption, fontsize=7, parse_math=False)
    if title:
        figure.suptitle(title, fontsize=9, parse_math=False)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def read_image(path: str) -> np.ndarray:
    """An image as ``(H, W, 3)`` uint8 in BGR.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it cannot be decoded in full.
    """
    try:
        return LoadCheckedImage().transform(dict(img_path=str(path)))['img']
    except BrokenImageError as error:
        raise ValueError(
            f'image {path} cannot be drawn on: {error.fault}; leave it out'
        ) from error


def drawable(image: np.ndarray) -> np.ndarray:
    """An image of a size to draw on.

    A small one has each pixel as a square of pixels. Outlines are then thin
    lines; networks see what they saw before, as resizing takes the squares
    together again.
    """
    longest = max(image.shape[:2])
    if longest > LARGEST:
        height, width = (
            max(1, round(n * LARGEST / longest)) for n in image.shape[:2]
        )
        return _resized(image, (height, width))
    factor = -(-SMALLEST // longest)
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def _resized(image: np.ndarray, hw: tuple[int, int]) -> np.ndarray:
    """An image of another size; of a smaller one, no pixel is left out."""
    shrinks = image.shape[0] > hw[0] or image.shape[1] > hw[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, (hw[1], hw[0]), interpolation=how)
