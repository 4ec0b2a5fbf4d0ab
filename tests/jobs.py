# Copyright (c) The serkd_mm authors. All rights reserved.
"""Training jobs of the tests: real processes that end with the test."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SERKD = str(ROOT / 'configs' / 'quickstart' / 'serkd.py')
# What a training of that config logs as losses.
SERKD_LOSSES = {
    'loss',
    'student.loss',
    'distill.loss_kd',
    'distill.loss_feature',
    'distill.loss_distance',
    'distill.loss_angle',
}
# Far above what a job of the tests takes; a job that hangs fails its test.
TIMEOUT = 300

# Options that spare the test a trained teacher.
RANDOM_TEACHER = (
    '--cfg-options',
    'model.teacher_ckpt=None',
    'model.allow_random_teacher=True',
)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return free.getsockname()[1]


def threads_of_gloo() -> int:
    """Threads that process groups over Gloo have in this process."""
    count = 0
    for path in Path('/proc/self/task').glob('*/comm'):
        with contextlib.suppress(OSError):  # of a thread that has ended since
            count += 'gloo' in path.read_text()
    return count


def threads_left_of_gloo(patience: float = 10) -> int:
    """The same at an end: one that was joined may be listed a while longer.

    Args:
        patience: Seconds to wait for there to be none.
    """
    end = time.monotonic() + patience
    while (count := threads_of_gloo()) and time.monotonic() < end:
        time.sleep(0.01)
    return count


@contextlib.contextmanager
def started(
    *command: Any,
    cwd: Path,
    log: str = 'log.txt',
    within: Sequence[str] = (),
    **environment: Any,
) -> Iterator[subprocess.Popen]:
    """Start a tool in a folder; all processes there end with the block.

    Args:
        command: Script of ``tools/`` and its arguments.
        cwd: Folder of the job, of no other test's.
        log: File there that receives what the job prints.
        within: Command that the tool is an argument of.
        environment: Further environment variables.
    """
    script, *arguments = map(str, command)
    shell = ['bash'] if script.endswith('.sh') else [sys.executable]
    path = os.pathsep.join(
        filter(None, (str(ROOT), os.environ.get('PYTHONPATH')))
    )
    variables = {
        **os.environ,
        'PYTHON': sys.executable,
        'PYTHONPATH': path,
        'PYTHONWARNINGS': 'ignore',
        'OMP_NUM_THREADS': '1',
        **{name: str(value) for name, value in environment.items()},
    }
    with open(cwd / log, 'w') as output:
        process = subprocess.Popen(
            [*within, *shell, str(ROOT / 'tools' / script), *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=variables,
        )
    try:
        yield process
    finally:
        for pid in processes(cwd):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def run(*command: Any, **kwargs: Any) -> int:
    """:func:`started` to the end of the tool; its exit code."""
    with started(*command, **kwargs) as process:
        return process.wait(timeout=TIMEOUT)


def processes(cwd: Path) -> list[int]:
    """Processes whose working directory is the folder of a job."""
    found = []
    for entry in Path('/proc').glob('[0-9]*'):
        # Others' processes are not readable, ended ones are gone.
        with contextlib.suppress(OSError):
            if os.readlink(entry / 'cwd') == str(cwd.resolve()):
                found.append(int(entry.name))
    return found
