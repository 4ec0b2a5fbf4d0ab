# Copyright (c) The serkd_mm authors. All rights reserved.
"""Jobs of two processes that lose one, or their disk."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from .jobs import RANDOM_TEACHER, SERKD, free_port, processes, run

# Two steps per epoch; the fault comes in the third step, in epoch 2.
STEPS, EPOCHS, FAULT = 2, 3, 3
CONFIG = f"""
_base_ = {SERKD!r}
custom_imports = dict(imports=['serkd_mm', 'tests.rank_faults'])
custom_hooks = [{{faults}}]
param_scheduler = None
train_dataloader = dict(dataset=dict(times=2))
train_cfg = dict(max_epochs={EPOCHS})
default_hooks = dict(
    checkpoint=dict(interval=1, max_keep_ckpts=-1, {{checkpoint}}),
    logger=dict(interval=1),
)
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        torch.cuda.is_available(),
        reason='the runs over gloo are for machines without CUDA',
    ),
]


def fault(name: str, rank: int, **kwargs: Any) -> str:
    return str(dict(type=name, rank=rank, step=FAULT, **kwargs))


def train(
    cwd: Path, *faults: str, checkpoint: str = '', **kwargs: Any
) -> tuple[int, str]:
    """Exit code and log of a job with faults."""
    config = CONFIG.format(faults=', '.join(faults), checkpoint=checkpoint)
    (cwd / 'faulty.py').write_text(config)
    code = run(
        *('dist_train.sh', 'faulty.py', 2, '--work-dir', 'work'),
        *('--no-validate', *RANDOM_TEACHER),
        cwd=cwd,
        PORT=free_port(),
        **kwargs,
    )
    assert processes(cwd) == []
    return code, (cwd / 'log.txt').read_text()


def checkpoints(work_dir: Path) -> dict[str, int]:
    """Iterations of the checkpoints, each of which can be read."""
    assert not list(work_dir.glob('.*'))
    files = sorted(work_dir.glob('*.pth'))
    last = Path((work_dir / 'last_checkpoint').read_text())
    assert last == files[-1].resolve()
    return {f.name: torch.load(f)['meta']['iter'] for f in files}


def expected(*epochs: int) -> dict[str, int]:
    return {f'epoch_{epoch}.pth': epoch * STEPS for epoch in epochs}


def test_a_killed_rank_ends_the_job(tmp_path: Path) -> None:
    # The other one hangs, and is killed after a grace period.
    code, log = train(
        tmp_path,
        fault('Kill', rank=1),
        fault('Hang', rank=0),
        TORCH_ELASTIC_SHUTDOWN_TIMEOUT=3,
    )

    assert code != 0
    assert 'Signal 9 (SIGKILL) received' in log
    assert checkpoints(tmp_path / 'work') == expected(1)


def test_a_job_restarts_after_a_rank_was_killed_while_it_saved(
    tmp_path: Path,
) -> None:
    code, log = train(
        tmp_path, fault('KillWhileSaving', rank=0), MAX_RESTARTS=1
    )

    assert code == 0, log[-3000:]
    assert checkpoints(tmp_path / 'work') == expected(1, 2, 3)
    assert log.count('Saving checkpoint at 1 epochs') == 1
    assert log.count('Saving checkpoint at 2 epochs') == 2
    assert 'resumed epoch: 1, iter: 2' in log


def test_a_full_disk_stops_all_ranks(tmp_path: Path) -> None:
    code, log = train(tmp_path, fault('LimitFiles', rank=0))

    assert code != 0
    assert 'Could not write this checkpoint: [Errno 27] File too large' in log
    for rank in range(2):
        assert f'[rank{rank}]: OSError: [Errno 27] File too large' in log
    assert checkpoints(tmp_path / 'work') == expected(1)


# A file system of its own for the work dir; what it held is copied out.
SMALL_DISK = """
mount -t tmpfs -o size=4m none work || exit 99
"$@"
code=$?
cp -r work kept
exit $code
"""


def can_mount() -> bool:
    if shutil.which('unshare') is None:
        return False
    command = ['unshare', '-rm', 'mount', '-t', 'tmpfs', 'none', '/mnt']
    return not subprocess.run(command, capture_output=True).returncode


@pytest.mark.skipif(not can_mount(), reason='needs user namespaces')
def test_training_outlasts_a_full_disk_by_option(tmp_path: Path) -> None:
    (tmp_path / 'work').mkdir()
    code, log = train(
        tmp_path,
        fault('FillDisk', rank=0, steps=STEPS),
        checkpoint="if_unwritable='continue'",
        within=('unshare', '-rm', 'bash', '-c', SMALL_DISK, 'bash'),
    )

    assert code == 0, log[-3000:]
    assert 'Could not write this checkpoint: [Errno 28] No space' in log
    (tmp_path / 'kept').rename(tmp_path / 'work')
    assert checkpoints(tmp_path / 'work') == expected(1, 3)
