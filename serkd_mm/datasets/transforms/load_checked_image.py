# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

import io
import logging
import re
import sys

import cv2
import mmcv
import numpy as np
from mmcv.image.io import imread_flags, supported_backends
from mmcv.transforms import LoadImageFromFile
from mmengine import fileio
from mmengine.logging import print_log
from mmpretrain.registry import TRANSFORMS
from PIL import Image, UnidentifiedImageError

from ... import compat

# Pillow's modes of more than 8 bits per channel.
_DEEP_MODES = ('I', 'F', 'I;16', 'I;16B', 'I;16L', 'I;16N')
_JPEG = b'\xff\xd8'
# libjpeg's warnings of missing picture data. Extraneous bytes are none: files
# of widely used data sets have some behind or between whole pictures.
_LOST = re.compile(
    r'Premature end of JPEG|Corrupt JPEG data: (?!\d+ extraneous)|'
    r'Inconsistent progression'
)


class BrokenImageError(ValueError):
    """An image file that cannot be decoded in full; the message names it.

    Attributes:
        fault: What is wrong with the file; empty in an error that has come
            from a worker process, whose message has it.
    """

    def __init__(self, message: str, fault: str = '') -> None:
        super().__init__(message)
        self.fault = fault


@TRANSFORMS.register_module()
class LoadCheckedImage(LoadImageFromFile):
    """Load an image, or say which file is broken and why.

    The pixels are those of :class:`mmcv.transforms.LoadImageFromFile`, whose
    arguments it shares; a file that is empty, cut off or damaged is an error
    instead of a partly grey picture or a message without a name. Colour
    images come out as three channels of 8 bits whatever the file holds: grey
    is repeated, CMYK converted, transparency dropped and 16 bits scaled (an
    error with the Pillow backend, which would clip them). Of an animation the
    first frame is taken, which is said once per process.

    What the decoder does not tell is not found: JPEG has no checksum, so
    changed bytes that decode to other pixels stay unnoticed, and the Pillow
    backend takes more of them than OpenCV's.

    Args:
        to_float32: Whether to convert the image to float32.
        color_type: Flag of :func:`mmcv.imfrombytes`.
        imdecode_backend: Backend of :func:`mmcv.imfrombytes`.
        backend_args: Where the file is, see :func:`mmengine.fileio.get`.

    Raises:
        ValueError: If no image can be decoded by these settings.
    """

    def __init__(
        self,
        to_float32: bool = False,
        color_type: str = 'color',
        imdecode_backend: str = 'cv2',
        backend_args: dict | None = None,
    ) -> None:
        _check_decoding(color_type, imdecode_backend)
        # No ignore_empty: the dataset would draw another image and not say so.
        super().__init__(
            to_float32=to_float32,
            color_type=color_type,
            imdecode_backend=imdecode_backend,
            backend_args=backend_args,
        )
        self._said_animated = False

    def transform(self, results: dict) -> dict:
        """Load the image of ``img_path``.

        Args:
            results: Sample with the key ``img_path``.

        Returns:
            The sample with ``img`` (``(H, W, 3)`` uint8 in BGR, unless
            ``color_type`` or ``to_float32`` say otherwise), ``img_shape`` and
            ``ori_shape``.

        Raises:
            OSError: If the file cannot be read.
            BrokenImageError: If it cannot be decoded in full.
        """
        path = results['img_path']
        content = fileio.get(path, backend_args=self.backend_args)
        try:
            image = self._decode(content, path)
        except Exception as error:
            # No memory, no space, too many files: of the machine.
            if isinstance(error, MemoryError) or getattr(error, 'errno', None):
                raise
            fault = next(iter(str(error).strip().splitlines()), '')
            raise BrokenImageError(
                f'broken image {path!r}: {fault}; replace or remove the file '
                '(training images, not those of validation and test, can be '
                'passed over by train.py --skip-broken-images)',
                fault,
            ) from error
        if self.to_float32:
            image = image.astype(np.float32)
        results['img'] = image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results

    def _decode(self, content: bytes, path: str) -> np.ndarray:
        if not content:
            raise _DecodeError('the file is empty (0 bytes)')
        kind = 'JPEG'
        if not content.startswith(_JPEG):
            kind = self._check_kind(content, path)
        with compat.decoder_messages() as messages:
            image = mmcv.imfrombytes(
                content, flag=self.color_type, backend=self.imdecode_backend
            )
        lost = [line for line in messages if _LOST.match(line)]
        if image is None or lost:
            said = ''.join(f' ({line})' for line in (lost or messages)[:1])
            other = ''
            if kind.startswith('GIF'):
                other = ", as imdecode_backend='pillow' does"
            raise _DecodeError(
                f'{self.imdecode_backend} cannot decode this {kind} of '
                f'{len(content)} bytes{said}; it is damaged or cut off, or '
                f'the backend does not know the format{other}'
            )
        for line in messages:
            print(f'{path}: {line}', file=sys.stderr)
        color = self.color_type.startswith('color')
        if color and (image.dtype != np.uint8 or image.shape[2:] != (3,)):
            raise _DecodeError(
                f'{self.imdecode_backend} gave {image.dtype} of shape '
                f'{image.shape}, not three channels of 8 bits'
            )
        return image

    def _check_kind(self, content: bytes, path: str) -> str:
        """Format of a file that is no JPEG; refuses what would be clipped."""
        try:
            image = Image.open(io.BytesIO(content))
        except UnidentifiedImageError:
            if self.imdecode_backend == 'pillow':
                raise _DecodeError(
                    f'Pillow does not know the format of its {len(content)} '
                    'bytes; it is damaged, or no image'
                ) from None
            return 'file of an unknown format'
        if self.imdecode_backend == 'pillow' and image.mode in _DEEP_MODES:
            raise _DecodeError(
                f'Pillow would clip its {image.mode} pixels at 255; use '
                "imdecode_backend='cv2'"
            )
        if image.mode == 'LAB' and self.imdecode_backend != 'pillow':
            raise _DecodeError(
                f'{self.imdecode_backend} would take its CIELAB values for '
                "BGR; use imdecode_backend='pillow'"
            )
        if getattr(image, 'is_animated', False) and not self._said_animated:
            self._said_animated = True
            print_log(
                f'{path} is an animation; of such files the first frame is '
                'used',
                logger='current',
                level=logging.WARNING,
            )
        return f'{image.format} (mode {image.mode})'


def _check_decoding(color_type: str, backend: str) -> None:
    """Refuse settings by which no file is decoded, before one is blamed."""
    suffix = '.tif' if backend == 'tifffile' else '.jpg'
    _, black = cv2.imencode(suffix, np.zeros((8, 8, 3), np.uint8))
    try:
        mmcv.imfrombytes(black.tobytes(), flag=color_type, backend=backend)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f'LoadCheckedImage(color_type={color_type!r}, imdecode_backend='
            f'{backend!r}) can decode nothing ({error}); color_type must be '
            f'one of {list(imread_flags)} and imdecode_backend one of '
            f'{supported_backends} whose package is installed'
        ) from error


class _DecodeError(Exception):
    """What is wrong with a file, without its name."""
