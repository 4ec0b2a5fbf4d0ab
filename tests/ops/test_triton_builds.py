# Copyright (c) The serkd_mm authors. All rights reserved.
"""The Triton kernel is built for a GPU that need not be there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from serkd_mm.ops import relation_triton

compiler = pytest.importorskip('triton.compiler')
backends = pytest.importorskip('triton.backends.compiler')
nvidia = pytest.importorskip('triton.backends.nvidia')

KERNEL, INTERPRETED = relation_triton._compiled()
POINTERS = ('squared', 'inverse', 'values', 'slopes', 'acrosses')
NUMBERS = ('side', 'num')
CONSTANTS = ('WANTED', 'ROWS', 'STEPS', 'COLUMNS')


@pytest.mark.skipif(INTERPRETED, reason='TRITON_INTERPRET=1 builds nothing')
@pytest.mark.parametrize('num', [4, 32, 49, 100, 256])
@pytest.mark.parametrize('wanted', [True, False])
def test_every_tile_builds_and_stays_in_registers(
    num: int, wanted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For sm_90, as the first call on a GPU builds it."""
    monkeypatch.setenv('TRITON_CACHE_DIR', str(tmp_path))
    names = list(KERNEL.arg_names)
    assert names == [*POINTERS, *NUMBERS, *CONSTANTS]
    signature = {
        **dict.fromkeys(POINTERS, '*fp32'),
        **dict.fromkeys(NUMBERS, 'i32'),
        **dict.fromkeys(CONSTANTS, 'constexpr'),
    }
    values = (wanted, *relation_triton.tile(num, interpreted=False))
    source = compiler.ASTSource(
        KERNEL,
        signature,
        dict(zip(CONSTANTS, values)),
        {(i,): [['tt.divisibility', 16]] for i in range(len(POINTERS))},
    )
    built = compiler.compile(
        source,
        target=backends.GPUTarget('cuda', 90, 32),
        options=dict(num_warps=relation_triton.NUM_WARPS),
    )
    assert built.metadata.shared <= 1024
    cubin = tmp_path / 'kernel.cubin'
    cubin.write_bytes(built.asm['cubin'])
    reader = Path(nvidia.__file__).with_name('bin') / 'cuobjdump'
    usage = subprocess.run(
        [reader, '-res-usage', cubin],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert re.search(r'STACK:0 .*LOCAL:0 ', usage), usage


def test_the_kernel_is_built_once_for_all_numbers_of_tokens() -> None:
    if INTERPRETED:
        pytest.skip('the interpreter builds nothing')
    assert [p.name for p in KERNEL.params if p.do_not_specialize] == [*NUMBERS]
