# Copyright (c) The serkd_mm authors. All rights reserved.
"""Superpixels of a trained pair on images of one's own."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import CheckpointLoader

from ..analysis.images import input_size, training_pipeline
from ..engine.cfg_options import merge_options
from ..engine.config_file import read_config
from ..engine.launch import require_model
from ..engine.whole_checkpoint import MISFITS, why_misfit
from ..models.algorithms import FrozenTeacherDistill
from ..models.from_config import build_model
from ..paths import is_missing
from .agreement import boundary_recall, normalized_mutual_information
from .sheet import (
    Labels,
    agreement_of,
    clustering,
    draw_sheet,
    drawable,
    read_image,
    superpixel_rows,
    superpixels_of_images,
    takes_rgb,
)
from .superpixels import warn_of_others

SUFFIXES = {'.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff'}


def visualize(
    config: str,
    checkpoint: str,
    images: Sequence[str],
    grids: Sequence[int] | None = None,
    iters: Sequence[int] | None = None,
    segmentations: str | Path | None = None,
    size: Sequence[int] | None = None,
    cfg_options: dict | None = None,
) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    """Draw a sheet for every grid and number of iterations.

    Args:
        config: Config of the distillation.
        checkpoint: What its training saved.
        images: Image files, or folders of them.
        grids: Cells of tokens per superpixel; the config's own by default.
        iters: Clustering iterations; the config's own by default.
        segmentations: npz of human segmentations, integers of shape ``(H, W)``
            or ``(annotators, H, W)`` under the name of each image without its
            suffix.
        size: Height and width of the networks' input; what the config's
            training pipeline puts out by default.
        cfg_options: Overrides of the config.

    Returns:
        Sheets in RGB by name, and a row of numbers per sheet and image.

    Raises:
        FileNotFoundError: If a file or folder is missing.
        ValueError: If an image cannot be decoded, a segmentation does not
            fit its image, the config has no model, or the checkpoint does
            not belong to it.
    """
    paths = _find_images(images)
    human = _segmentations(segmentations, paths) if segmentations else {}
    pictures = [drawable(read_image(str(path))) for path in paths]
    cfg = read_config(config)
    merge_options(cfg, cfg_options or {})
    require_model(cfg)
    model = load_algorithm(cfg, checkpoint)
    warn_of_others(model.distiller)
    hw = (size[0], size[1]) if size else input_size(cfg)
    rgb = takes_rgb(model, [str(s['type']) for s in training_pipeline(cfg)])
    sheets, rows = {}, []
    own: list[int | None] = [None]
    for grid, steps in itertools.product(grids or own, iters or own):
        with clustering(model, grid, steps):
            labels = superpixels_of_images(model, pictures, hw, rgb)
        name = 'superpixels'
        name += f'_grid-{grid}' if grid else ''
        name += f'_iters-{steps}' if steps is not None else ''
        numbers = _numbers(paths, labels, human)
        sheets[name] = draw_sheet(
            {'image': pictures, **superpixel_rows(pictures, labels)},
            [_caption(path, line) for path, line in zip(paths, numbers)],
            name.replace('_', '  ').replace('-', ' '),
        )
        rows += [
            dict(sheet=name, image=path.name, **line)
            for path, line in zip(paths, numbers)
        ]
    return sheets, rows


def _segmentations(
    path: str | Path, images: Sequence[Path]
) -> dict[str, np.ndarray]:
    """Human segmentations of images, ``(annotators, H, W)``, by their names.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no npz, has none of these images, or something
            else than regions under their names.
    """
    try:
        with np.load(path) as file:
            found = {name: file[name] for name in file.files}
    except (
        AttributeError,
        EOFError,
        IsADirectoryError,
        TypeError,
        ValueError,
        BadZipFile,
    ):
        raise ValueError(
            f'--segmentations {path} is no npz of arrays; write one with '
            'numpy.savez, (annotators, H, W) under the name of each image '
            'without suffix'
        ) from None
    stems = [image.stem for image in images]
    human = {name: found[name] for name in stems if name in found}
    if not human:
        raise ValueError(
            f'--segmentations {path} has none of the images: its names begin '
            f'with {list(found)[:3]}, those of the images with {stems[:3]}'
        )
    for name, regions in human.items():
        if regions.ndim not in (2, 3) or regions.dtype.kind not in 'biu':
            raise ValueError(
                f'--segmentations {path} has {regions.dtype} of shape '
                f'{regions.shape} for {name}, expected integers of shape '
                '(H, W) or (annotators, H, W)'
            )
        shape = (-1, *regions.shape[-2:])
        human[name] = regions.astype(np.int32).reshape(shape)
    return human


def load_algorithm(cfg: Config, checkpoint: str) -> FrozenTeacherDistill:
    """Build a config's algorithm with the weights of its training.

    Raises:
        FileNotFoundError: If the checkpoint is missing.
        ValueError: If the checkpoint does not belong to the config.
    """
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    model = build_model(cfg)
    if not isinstance(model, FrozenTeacherDistill):
        raise ValueError(
            f'{cfg.filename} builds a {type(model).__name__}; superpixels of '
            'teacher and student need the config of a distillation'
        )
    if is_missing(checkpoint):
        kind = 'a folder' if Path(checkpoint).is_dir() else 'not a file'
        raise FileNotFoundError(
            f'checkpoint {checkpoint} is {kind}; name one file, such as the '
            'one that last_checkpoint of a work dir names'
        )
    saved = CheckpointLoader.load_checkpoint(checkpoint, map_location='cpu')
    try:
        model.load_state_dict(saved.get('state_dict', saved))
    except MISFITS as error:
        raise ValueError(
            f'{checkpoint} does not belong to {cfg.filename}: '
            f'{why_misfit(error)}'
        ) from None
    return model.eval()


def _find_images(names: Sequence[str]) -> list[Path]:
    paths: list[Path] = []
    for name in map(Path, names):
        if name.is_dir():
            found = sorted(
                p for p in name.iterdir() if p.suffix.lower() in SUFFIXES
            )
            if not found:
                raise FileNotFoundError(
                    f'folder {name} holds no image of its own; name images, '
                    'or the folders that they are in'
                )
            paths += found
        elif name.is_file():
            paths.append(name)
        else:
            raise FileNotFoundError(f'image {name} does not exist')
    return paths


def _numbers(
    paths: list[Path], labels: Labels, human: dict[str, np.ndarray]
) -> list[dict[str, float]]:
    """Agreement of the sides, and of each with the people, per image."""
    numbers = agreement_of(labels) or [{} for _ in paths]
    for index, (path, line) in enumerate(zip(paths, numbers)):
        for side, found in labels.items() if path.stem in human else ():
            truth = [
                _fit(t, found[index].shape, path) for t in human[path.stem]
            ]
            line[f'{side} nmi with people'] = float(
                np.mean([
                    normalized_mutual_information(found[index], t)
                    for t in truth
                ])
            )  # fmt: skip
            line[f'{side} boundary recall of people'] = float(
                np.nanmean([boundary_recall(found[index], t) for t in truth])
            )
    return numbers


def _fit(truth: np.ndarray, shape: tuple[int, ...], path: Path) -> np.ndarray:
    if truth.shape == shape:
        return truth
    (rows, columns), (height, width) = truth.shape, shape
    if rows != columns and (rows > columns) == (height < width):
        raise ValueError(
            f'the segmentation of {path.name} has {rows}x{columns} pixels, '
            f'the image {height}x{width} where it is drawn: one of them is '
            'turned'
        )
    return cv2.resize(
        truth, (shape[1], shape[0]), interpolation=cv2.INTER_NEAREST
    )


def _caption(path: Path, numbers: dict[str, float]) -> str:
    nmi = numbers.get('nmi')
    return path.stem if nmi is None else f'{path.stem}\nNMI {nmi:.2f}'
