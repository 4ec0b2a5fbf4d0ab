# Copyright (c) The serkd_mm authors. All rights reserved.
"""Image files of every kind that a folder may hold, whole and broken."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image


def picture(seed: int = 0, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    """A smooth RGB picture, ``(H, W, 3)`` uint8."""
    rng = np.random.RandomState(seed)
    small = Image.fromarray(rng.randint(0, 256, (4, 6, 3), np.uint8))
    return np.asarray(small.resize(size[::-1], Image.BICUBIC))


def encode(image: Any, kind: str, **options: Any) -> bytes:
    """A picture or Pillow image as the content of a file."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def jpeg(seed: int = 0) -> bytes:
    return encode(picture(seed), 'JPEG', quality=95)


def deep(image: np.ndarray, suffix: str = '.png') -> bytes:
    """A 16-bit file of an RGB or grey uint16 image."""
    if image.ndim == 3:
        image = image[..., ::-1]
    return cv2.imencode(suffix, image)[1].tobytes()


def damaged(content: bytes, start: float = 0.4, end: float = 0.6) -> bytes:
    """A file with a hole in the middle, as a lost disk block leaves."""
    first, last = int(start * len(content)), int(end * len(content))
    return content[:first] + bytes(last - first) + content[last:]


def write_folder(folder: Path, classes: int = 2, each: int = 4) -> list[Path]:
    """Class folders ``c0``, ``c1``, ... of JPEG files, in sorted order."""
    paths = []
    for label in range(classes):
        for index in range(each):
            path = folder / f'c{label}' / f'{index}.jpg'
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(jpeg(10 * label + index))
            paths.append(path)
    return paths
