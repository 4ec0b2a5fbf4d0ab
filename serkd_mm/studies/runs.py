# Copyright (c) The serkd_mm authors. All rights reserved.
"""One training of a study: its folder, its config and its record."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.fileio import put_text

from ..analysis.logs import read_run
from ..engine.cfg_options import merge_options
from ..engine.checkpoints import latest_checkpoints
from .fingerprint import has_teacher
from .process import LOCK, RunError
from .study import TEACHER, Experiment, Study

RUNNING, FAILED, FINISHED = 'running', 'failed', 'finished'
RECORD, LOG = 'run.json', 'train.log'
_ERROR = re.compile(r'(\[rank\d+\]:? )?(error|[\w.]+(Error|Exception)): .')


# Checkpoints that stay of a run whose config does not say how many: to go on
# from the one before where the newest cannot be read.
KEPT_CHECKPOINTS = 2


@dataclass(frozen=True)
class Run:
    """An experiment with a seed, in a folder of its own.

    Attributes:
        experiment: What is trained.
        seed: None for the config's own.
        folder: Holds config, log, checkpoints and record.
        seed_keys: Config keys that are set to the seed.
    """

    experiment: Experiment
    seed: int | None
    folder: Path
    seed_keys: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Experiment and seed for the reader."""
        seed = '' if self.seed is None else f' seed {self.seed}'
        return f'{self.experiment.name}{seed}'

    def config(self, teacher: str | None = None) -> Config:
        """The config to train.

        A sweep is for its table: of every run the last checkpoints stay.

        Args:
            teacher: Checkpoint of the study's teacher, set where the config
                has a teacher.
        """
        cfg = self.experiment.load()
        if self.seed is not None:
            merge_options(cfg, dict.fromkeys(self.seed_keys, self.seed))
        if teacher is not None and has_teacher(cfg):
            cfg.model.teacher_ckpt = teacher
        checkpoint = (cfg.get('default_hooks') or {}).get('checkpoint')
        if checkpoint:
            checkpoint.setdefault('max_keep_ckpts', KEPT_CHECKPOINTS)
        return cfg

    def record(self) -> dict[str, Any] | None:
        """What the run has written about itself, None before it starts.

        Raises:
            ValueError: If the file is damaged.
        """
        path = self.folder / RECORD
        if not path.is_file():
            return None
        try:
            return json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(
                f'{path} is no record of a run ({error}); remove its folder '
                'to train the run again'
            ) from error

    def write_record(self, record: dict[str, Any]) -> None:
        """Replace the record in one step."""
        text = json.dumps(record, indent=1) + '\n'
        put_text(text, str(self.folder / RECORD))

    @property
    def status(self) -> str:
        """``'running'`` is half-finished as well, ``'open'`` not started."""
        return (self.record() or {}).get('status', 'open')

    def checkpoint(self) -> Path | None:
        """The latest checkpoint, None if there is none."""
        named = map(Path, latest_checkpoints(str(self.folder)))
        return next(filter(Path.is_file, named), None)

    def holds_other_work(self, digest: str) -> bool:
        """Whether its result or checkpoint has another fingerprint."""
        record = self.record()
        if record is None or record['fingerprint'] == digest:
            return False
        return self.status == FINISHED or self.checkpoint() is not None

    def clear(self) -> None:
        """Remove what a half-finished run has left.

        Raises:
            RunError: If the folder holds files that are not a run's.
        """
        found = [p for p in self.folder.iterdir() if p.name != LOCK]
        if found and self.record() is None:
            raise RunError(
                f'{self.folder} holds files but no record of a run; move '
                'them away, or choose another folder with --out'
            )
        # The record last: without it what is left would be no run's.
        for path in sorted(found, key=lambda path: path.name == RECORD):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def runs_of(
    study: Study,
    out: Path,
    names: Iterable[str] | None = None,
    seeds: Sequence[int] | None = None,
) -> list[Run]:
    """Runs of a study, seed by seed.

    Args:
        study: The study.
        out: Folder of the study's runs.
        names: Experiments to run, None for all.
        seeds: Seeds to run, None for the study's.
    """
    experiments = study.select(names)
    return [
        Run(
            experiment,
            seed,
            out / experiment.name / f'seed-{seed}',
            study.seed_keys,
        )
        for seed in dict.fromkeys(study.seeds if seeds is None else seeds)
        for experiment in experiments
    ]


def gather_runs(
    study: Study,
    outs: Sequence[Path],
    names: Iterable[str] | None = None,
    seeds: Sequence[int] | None = None,
) -> list[Run]:
    """Runs of a study that was trained in several folders.

    Args:
        study: The study.
        outs: Folders of the study's runs, as of several machines.
        names: As of :func:`runs_of`.
        seeds: As of :func:`runs_of`.

    Returns:
        One run of every experiment and seed, from the first folder in which
        it is finished, or else begun.

    Raises:
        ValueError: If two folders have different results of a run.
    """
    names = None if names is None else list(names)
    return [
        _first_trained(same)
        for same in zip(*(runs_of(study, out, names, seeds) for out in outs))
    ]


def _first_trained(same: Sequence[Run]) -> Run:
    begun = [run for run in same if run.record() is not None]
    finished = [run for run in begun if run.status == FINISHED]
    for other in finished[1:]:
        if other.record() != finished[0].record():
            raise ValueError(
                f'{other.title} is finished in {finished[0].folder} and, '
                f'otherwise, in {other.folder}; leave one of these folders '
                'out, or move one of the runs away'
            )
    return (finished or begun or same)[0]


def teacher_run(study: Study, out: Path) -> Run | None:
    """The run of the study's teacher, None where there is none."""
    if study.teacher is None:
        return None
    return Run(study.teacher, None, out / TEACHER)


def find_twin(run: Run, digest: str, outs: Path) -> dict[str, Any] | None:
    """What another study says of the same training, None if none had it.

    Args:
        run: The run, of a seed.
        digest: Its fingerprint.
        outs: Folder of the studies' folders.

    Returns:
        The record, with the folder of the training under ``trained_in``.
    """
    if run.seed is None:
        return None
    for path in sorted(outs.glob(f'*/*/seed-{run.seed}/{RECORD}')):
        with contextlib.suppress(ValueError):  # that study says so
            record = json.loads(path.read_text())
            same = record.get('fingerprint') == digest
            if same and record.get('status') == FINISHED:
                return {'trained_in': str(path.parent), **record}
    return None


def read_curve(folder: Path) -> list[tuple[int, float]]:
    """Epoch and top-1 of every validation of a run, all its starts together.

    Runs without epochs have iterations in their place.
    """
    log = read_run(folder)
    top1 = log.validated if log.metric_title == 'top-1' else []
    return [(int(epoch), value) for epoch, value in top1]


def _reason(lines: Sequence[str]) -> str:
    """The line of a log that says why a training failed.

    Launchers of several processes write a report of their own after it.
    """
    errors = [
        line
        for line in lines
        if _ERROR.match(line) and 'ChildFailedError' not in line
    ]
    return (errors or lines or ['no output'])[-1]


def finished_curve(
    folder: Path, code: int, max_epochs: int | None, begun: int = 0
) -> list[tuple[int, float]]:
    """Validations of a training that ran to its end.

    Args:
        folder: Folder of the run.
        code: Exit status of the training.
        max_epochs: Its epochs; None where it may end before.
        begun: Length of the log in bytes when this attempt began.

    Raises:
        RunError: If it did not.
    """
    log = folder / LOG
    if code:
        said = log.read_bytes()[begun:].decode(errors='replace')
        lines = said.rstrip().splitlines()
        raise RunError(f'exit status {code}: {_reason(lines)} (see {log})')
    curve = read_curve(folder)
    if not curve or curve[-1][0] != (max_epochs or curve[-1][0]):
        raise RunError(
            f'no top-1 of epoch {max_epochs}: validated after epochs '
            f'{[epoch for epoch, _ in curve]} (see {log})'
        )
    return curve
