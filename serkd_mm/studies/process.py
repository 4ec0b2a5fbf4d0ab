# Copyright (c) The serkd_mm authors. All rights reserved.
"""The process of a training: what it runs, where, and how it ends."""

from __future__ import annotations

import fcntl
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import torch


class RunError(Exception):
    """A run that did not end well; the message is for the user."""


@dataclass
class Launcher:
    """Starts trainings through the project's own tools.

    Attributes:
        tools: Folder of ``train.py`` and ``dist_train.sh``.
        threads: CPU threads of every process.
        gpus: Processes of every run, through ``dist_train.sh``; None for one
            process without launcher.
        arguments: Further arguments of ``train.py``.
    """

    tools: Path
    threads: int = 1
    gpus: int | None = None
    arguments: tuple[str, ...] = ()
    _processes: set[subprocess.Popen] = field(default_factory=set)
    _stopped: bool = False

    def command(self, config: Path, resume: bool = False) -> list[str]:
        """The command that trains a config in the folder that it lies in."""
        arguments = ['--work-dir', str(config.parent), *self.arguments]
        if resume:
            arguments.append('--resume')
        if self.gpus is not None:
            script = str(self.tools / 'dist_train.sh')
            return ['bash', script, str(config), str(self.gpus), *arguments]
        train = str(self.tools / 'train.py')
        return [sys.executable, '-W', 'ignore', train, str(config), *arguments]

    def call(
        self, command: Sequence[str], log: Path, slot: int, held: IO
    ) -> int:
        """Run a training to its end.

        Args:
            command: The command.
            log: File that its output is added to.
            slot: Which of the trainings at a time this is, from 0.
            held: The lock of the run's folder. The training inherits it, so
                that the folder stays locked should this process die.

        Returns:
            The exit status.
        """
        settings = slot_environment(slot, self.gpus, self.threads)
        with log.open('a') as file:
            process = subprocess.Popen(
                command,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **settings},
                # A group of its own, to end a launcher with its processes.
                start_new_session=True,
                pass_fds=[held.fileno()],
            )
            self._processes.add(process)
            if self._stopped:  # while it was being started
                self.stop()
            try:
                return process.wait()
            finally:
                self._processes.discard(process)

    def stop(self) -> None:
        """End the trainings that are running or about to."""
        self._stopped = True
        for process in list(self._processes):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)


LOCK = '.lock'


@contextmanager
def lock(folder: Path) -> Iterator[IO]:
    """Hold a run's folder, which is made if missing.

    Raises:
        RunError: If another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open('w') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f'another process is training it, see {folder}'
            ) from None
        yield file


def slot_environment(
    slot: int, gpus: int | None, threads: int
) -> dict[str, str]:
    """Environment variables of the ``slot``-th of the runs at a time.

    Runs without launcher take the visible GPUs in turn, those with launcher
    ``gpus`` each; their ports are apart.
    """
    found = dict.fromkeys(
        ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS'),
        str(threads),
    )
    found['PYTHON'] = sys.executable
    found['PORT'] = str(int(os.environ.get('PORT', '29500')) + slot)
    visible = visible_gpus()
    if visible:
        each = gpus or 1
        first = slot * each
        chosen = [visible[(first + i) % len(visible)] for i in range(each)]
        found['CUDA_VISIBLE_DEVICES'] = ','.join(chosen)
    return found


# What hides GPUs in a list of them.
_NONE = ('', '-1')


def visible_gpus() -> list[str]:
    """Names of the GPUs that CUDA may use."""
    named = os.environ.get('CUDA_VISIBLE_DEVICES')
    if named is not None:
        names = map(str.strip, named.split(','))
        # CUDA takes those in front of the first that is none.
        return list(itertools.takewhile(lambda name: name not in _NONE, names))
    return [str(index) for index in range(torch.cuda.device_count())]
