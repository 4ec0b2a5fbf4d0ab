# Copyright (c) The serkd_mm authors. All rights reserved.
"""Every picture arrives whole, or its file is named."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from mmpretrain.registry import TRANSFORMS
from PIL import Image

from serkd_mm.datasets import BrokenImageError, LoadCheckedImage
from serkd_mm.datasets.transforms import load_checked_image

from .images import damaged, deep, encode, jpeg, picture

RGB = picture()
PNG = encode(RGB, 'PNG')
GREY = np.asarray(Image.fromarray(RGB).convert('L'))
BLACK = Image.new('RGB', RGB.shape[1::-1])
RAMP = np.linspace(0, 65535, GREY.size).reshape(GREY.shape).astype(np.uint16)


def as_mode(mode: str) -> Image.Image:
    return Image.fromarray(RGB).convert(mode)


def load(content: bytes, folder: Path, **settings) -> dict:
    path = folder / 'image.file'
    path.write_bytes(content)
    transform = TRANSFORMS.build(dict(type='LoadCheckedImage', **settings))
    return transform(dict(img_path=str(path)))


def grey_as_rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=2)


# Content, expected RGB picture, greatest mean difference.
WHOLE = {
    'jpeg': (jpeg(), RGB, 3),
    'png': (PNG, RGB, 0),
    'grey jpeg': (encode(as_mode('L'), 'JPEG'), grey_as_rgb(GREY), 2),
    'grey png': (encode(as_mode('L'), 'PNG'), grey_as_rgb(GREY), 0),
    'black and white': (
        encode(as_mode('1'), 'PNG'),
        np.asarray(as_mode('1').convert('RGB')),
        0,
    ),
    'palette': (
        encode(as_mode('P'), 'PNG'),
        np.asarray(as_mode('P').convert('RGB')),
        0,
    ),
    'cmyk jpeg': (encode(as_mode('CMYK'), 'JPEG', quality=95), RGB, 3),
    'cmyk tiff': (encode(as_mode('CMYK'), 'TIFF'), RGB, 1),
    'transparent': (encode(as_mode('RGBA'), 'PNG'), RGB, 0),
    '16-bit colour': (deep(RGB.astype(np.uint16) * 257), RGB, 0),
    '16-bit tiff': (deep(RGB.astype(np.uint16) * 257, '.tif'), RGB, 0),
    # High byte of the ramp: clipping would make nearly all of it white.
    '16-bit grey': (deep(RAMP), grey_as_rgb((RAMP >> 8).astype(np.uint8)), 0),
    'animated png': (
        encode(RGB, 'PNG', save_all=True, append_images=[BLACK]),
        RGB,
        0,
    ),
    'animated webp': (
        encode(
            RGB, 'WEBP', lossless=True, save_all=True, append_images=[BLACK]
        ),
        RGB,
        1,
    ),
    'pages': (
        encode(RGB, 'TIFF', save_all=True, append_images=[BLACK]),
        RGB,
        0,
    ),
    'bytes behind': (jpeg() + bytes(20), RGB, 3),
}


@pytest.mark.parametrize('kind', list(WHOLE))
def test_every_kind_of_file_gives_its_picture_in_8_bits(
    kind: str, tmp_path: Path
) -> None:
    content, expected, tolerance = WHOLE[kind]

    loaded = load(content, tmp_path)

    assert loaded['img'].dtype == np.uint8
    assert loaded['img'].shape == RGB.shape
    assert loaded['img_shape'] == loaded['ori_shape'] == RGB.shape[:2]
    gap = np.abs(loaded['img'][..., ::-1].astype(int) - expected).mean()
    assert gap <= tolerance


def test_pixels_are_those_of_the_hosts_transform(tmp_path: Path) -> None:
    ours = load(jpeg(), tmp_path, to_float32=True)
    host = LoadImageFromFile(to_float32=True)
    theirs = host(dict(img_path=str(tmp_path / 'image.file')))

    assert ours['img'].dtype == theirs['img'].dtype
    assert np.array_equal(ours['img'], theirs['img'])


def bad_checksum(content: bytes) -> bytes:
    middle = len(content) // 2
    changed = bytes([content[middle] ^ 255])
    return content[:middle] + changed + content[middle + 1 :]


# Content, settings, what the message says.
BROKEN = {
    'empty': (b'', {}, 'empty (0 bytes)'),
    'text': (b'<html>404 not found</html>', {}, 'unknown format'),
    'noise': (np.random.RandomState(0).bytes(4000), {}, 'unknown format'),
    'half a jpeg': (jpeg()[: len(jpeg()) // 2], {}, 'cannot decode'),
    'jpeg header': (jpeg()[:300], {}, 'cannot decode'),
    'jpeg without its end': (jpeg()[:-2], {}, 'cannot decode'),
    'jpeg with a hole': (damaged(jpeg()), {}, 'Corrupt JPEG data'),
    'half a png': (PNG[: len(PNG) // 2], {}, 'this PNG'),
    'png with a wrong byte': (bad_checksum(PNG), {}, 'this PNG'),
    'half a webp': (encode(RGB, 'WEBP')[:200], {}, 'could not create decoder'),
    'pcx': (encode(as_mode('P'), 'PCX'), {}, 'this PCX (mode P)'),
    'floats': (
        encode(Image.fromarray(GREY.astype(np.float32)), 'TIFF'),
        {},
        'mode F',
    ),
    '16 bits that Pillow would clip': (
        deep(RAMP),
        dict(imdecode_backend='pillow'),
        "would clip its I;16 pixels at 255; use imdecode_backend='cv2'",
    ),
    'no image for Pillow': (
        b'<html>404 not found</html>',
        dict(imdecode_backend='pillow'),
        'Pillow does not know the format of its 26 bytes',
    ),
    'lightness and opponents': (
        encode(as_mode('LAB'), 'TIFF'),
        {},
        "CIELAB values for BGR; use imdecode_backend='pillow'",
    ),
}

if int(cv2.__version__.split('.')[0]) < 5:  # which decodes them
    gif = encode(as_mode('P'), 'GIF')
    BROKEN['gif'] = (
        gif,
        {},
        "does not know the format, as imdecode_backend='pillow' does",
    )


@pytest.mark.parametrize('fault', list(BROKEN))
def test_a_broken_file_is_named(
    fault: str, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    content, settings, said = BROKEN[fault]

    with pytest.raises(BrokenImageError) as error:
        load(content, tmp_path, **settings)

    text = str(error.value)
    assert text.startswith(f"broken image '{tmp_path / 'image.file'}': ")
    assert said in text
    assert said in error.value.fault
    # Advice that is true of every image, and what is only of some.
    assert text.endswith(
        '; replace or remove the file (training images, not those of '
        'validation and test, can be passed over by train.py '
        '--skip-broken-images)'
    )
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize(
    'settings',
    [
        dict(color_type='colour'),
        dict(imdecode_backend='opencv'),
        dict(imdecode_backend='turbojpeg'),
    ],
)
def test_settings_that_decode_nothing_blame_no_image(settings: dict) -> None:
    ((name, value),) = settings.items()
    with pytest.raises(
        ValueError,
        match=rf'^LoadCheckedImage\(.*{name}=.{value}.*can decode nothing .*'
        "one of .'color', .* one of .'cv2', ",
    ):
        LoadCheckedImage(**settings)


@pytest.mark.parametrize(
    ('function', 'error'),
    [
        ('mmcv.imfrombytes', MemoryError()),
        ('serkd_mm.compat._scratch_file', OSError(errno.ENOSPC, 'no space')),
    ],
)
def test_a_machine_that_is_full_is_no_fault_of_the_file(
    function: str,
    error: Exception,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_, **__) -> None:
        raise error

    monkeypatch.setattr(function, full)
    with pytest.raises(type(error)) as raised:
        load(PNG, tmp_path)
    assert raised.value is error


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    transform = TRANSFORMS.build(dict(type='LoadCheckedImage'))
    with pytest.raises(FileNotFoundError, match='absent.jpg'):
        transform(dict(img_path=str(tmp_path / 'absent.jpg')))


def test_needless_bytes_are_said_with_the_files_name(
    tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    # Real data sets have such files, whose pictures are whole.
    end = jpeg().rindex(b'\xff\xd9')
    content = jpeg()[:end] + bytes(range(1, 6)) + jpeg()[end:]

    loaded = load(content, tmp_path)

    path = tmp_path / 'image.file'
    said = capfd.readouterr().err
    assert re.search(
        rf'^{path}: Corrupt JPEG data: \d extraneous bytes', said, re.M
    )
    whole = load(jpeg(), tmp_path)['img']
    assert np.array_equal(loaded['img'], whole)


def test_an_animation_is_said_once(tmp_path: Path, logged: Callable) -> None:
    said = logged(load_checked_image)
    transform = TRANSFORMS.build(dict(type='LoadCheckedImage'))
    for name in ('one.png', 'two.png'):
        (tmp_path / name).write_bytes(WHOLE['animated png'][0])
        transform(dict(img_path=str(tmp_path / name)))

    assert len(said) == 1
    assert 'one.png is an animation' in said[0]


def test_no_setting_lets_a_broken_image_pass_in_silence() -> None:
    with pytest.raises(TypeError, match='ignore_empty'):
        TRANSFORMS.build(dict(type='LoadCheckedImage', ignore_empty=True))
