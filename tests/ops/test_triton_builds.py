# Copyright (c) The serkd_mm authors. All rights reserved.
"""The Triton kernels are built for a GPU that need not be there."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serkd_mm.ops import distances_triton, relation_triton

compiler = pytest.importorskip('triton.compiler')
backends = pytest.importorskip('triton.backends.compiler')
nvidia = pytest.importorskip('triton.backends.nvidia')

ANGLE, INTERPRETED = relation_triton._compiled()
DISTANCE, _ = distances_triton._compiled()
builds = pytest.mark.skipif(
    INTERPRETED, reason='TRITON_INTERPRET=1 builds nothing'
)


def build(
    kernel: Any,
    types: dict[str, str],
    constants: dict[str, Any],
    warps: int,
    even: tuple[str, ...] = (),
    target: tuple[str, Any, int] = ('cuda', 90, 32),
) -> Any:
    """As on a GPU; those in ``even`` are multiples of 16."""
    assert list(kernel.arg_names) == [*types, *constants]
    aligned = [
        i
        for i, (name, kind) in enumerate(types.items())
        if kind[0] == '*' or name in even
    ]
    source = compiler.ASTSource(
        kernel,
        {**types, **dict.fromkeys(constants, 'constexpr')},
        constants,
        {(i,): [['tt.divisibility', 16]] for i in aligned},
    )
    return compiler.compile(
        source,
        target=backends.GPUTarget(*target),
        options=dict(num_warps=warps, enable_fp_fusion=True),
    )


def assert_in_registers(built: Any, folder: Path) -> None:
    """Nothing has been spilled to memory."""
    cubin = folder / 'kernel.cubin'
    cubin.write_bytes(built.asm['cubin'])
    reader = Path(nvidia.__file__).with_name('bin') / 'cuobjdump'
    usage = subprocess.run(
        [reader, '-res-usage', cubin],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert re.search(r'STACK:0 .*LOCAL:0 ', usage), usage


@contextlib.contextmanager
def linker() -> Iterator[None]:
    """Older Triton takes that of an installed ROCm."""
    try:
        yield
    except Exception as error:
        if 'ROCm linker' in str(error):
            pytest.skip(str(error))
        raise


def assert_no_scratch(built: Any) -> None:
    """:func:`assert_in_registers` for AMD's assembly."""
    spilled = re.findall(
        r'\.(?:private_segment_fixed_size|vgpr_spill_count): +(\d+)',
        built.asm['amdgcn'],
    )
    assert spilled == ['0', '0']


@pytest.fixture(autouse=True)
def _no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('TRITON_CACHE_DIR', str(tmp_path))


def build_angle(num: int, wanted: bool, **options: Any) -> Any:
    pointers = ('squared', 'inverse', 'values', 'slopes', 'acrosses')
    types = {
        **dict.fromkeys(pointers, '*fp32'),
        **dict.fromkeys(('side', 'num'), 'i32'),
    }
    rows, steps, columns = relation_triton.tile(num, interpreted=False)
    constants = dict(WANTED=wanted, ROWS=rows, STEPS=steps, COLUMNS=columns)
    return build(ANGLE, types, constants, relation_triton.NUM_WARPS, **options)


def build_distance(dtype: str, **options: Any) -> Any:
    numbers = ('image_stride', 'token_stride', 'num', 'width')
    types = {
        **dict.fromkeys(('tokens', 'largest'), f'*{dtype}'),
        **dict.fromkeys(('squared', 'inverse', 'scales'), '*fp32'),
        **dict.fromkeys(numbers, 'i32'),
        **dict.fromkeys(('limit', 'rounding'), 'fp32'),
    }
    side, channels = distances_triton.square(interpreted=False)
    constants = dict(SIDE=side, CHANNELS=channels)
    return build(
        DISTANCE, types, constants, distances_triton.NUM_WARPS, **options
    )


@builds
@pytest.mark.parametrize('num', [4, 32, 49, 100, 256])
@pytest.mark.parametrize('wanted', [True, False])
def test_every_tile_builds_and_stays_in_registers(
    num: int, wanted: bool, tmp_path: Path
) -> None:
    built = build_angle(num, wanted)

    assert built.metadata.shared <= 1024
    assert_in_registers(built, tmp_path)


@builds
@pytest.mark.parametrize('even', [(), ('image_stride', 'token_stride')])
@pytest.mark.parametrize('dtype', ['fp32', 'fp16', 'bf16'])
def test_distances_build_and_stay_in_registers(
    dtype: str, even: tuple[str, ...], tmp_path: Path
) -> None:
    built = build_distance(dtype, even=even)

    assert built.metadata.shared <= 4096
    assert_in_registers(built, tmp_path)


@builds
@pytest.mark.parametrize('capability', [70, 75, 80, 86, 100, 120])
def test_older_and_newer_gpus_spill_nothing_either(
    capability: int, tmp_path: Path
) -> None:
    target = ('cuda', capability, 32)
    for num in (49, 256):
        assert_in_registers(build_angle(num, True, target=target), tmp_path)
    assert_in_registers(build_distance('bf16', target=target), tmp_path)


@builds
@pytest.mark.parametrize(
    ('capability', 'lanes'), [('gfx90a', 64), ('gfx942', 64), ('gfx1100', 32)]
)
def test_gpus_under_rocm_spill_nothing_either(
    capability: str, lanes: int
) -> None:
    pytest.importorskip('triton.backends.amd')
    target = ('hip', capability, lanes)
    with linker():
        angles = [build_angle(n, True, target=target) for n in (49, 256)]
        distance = build_distance('bf16', target=target)

    for built in (*angles, distance):
        assert_no_scratch(built)


@builds
@pytest.mark.parametrize(
    ('kernel', 'numbers'),
    [(ANGLE, ['side', 'num']), (DISTANCE, ['num', 'width'])],
)
def test_a_kernel_is_not_built_again_for_other_sizes(
    kernel: Any, numbers: list[str]
) -> None:
    assert [p.name for p in kernel.params if p.do_not_specialize] == numbers
