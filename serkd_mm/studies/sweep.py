# Copyright (c) The serkd_mm authors. All rights reserved.
"""Train the runs of a study, several at a time, and go on where it stopped."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch

from ..benchmarks.measure import Options
from ..benchmarks.report import environment
from ..engine.config_checks import hook_path
from .difference import why_other
from .fingerprint import file_digest, fingerprint, has_teacher
from .process import Launcher, RunError, lock
from .runs import (
    FAILED,
    FINISHED,
    LOG,
    RUNNING,
    Run,
    find_twin,
    finished_curve,
    runs_of,
    teacher_run,
)
from .study import TEACHER, Study


@dataclass
class Sweep:
    """Trains the runs that are not finished.

    Attributes:
        study: The study.
        out: Folder of the study's runs.
        launcher: Starts the trainings.
        jobs: Trainings at a time.
        teacher: Checkpoint in the place of the study's own teacher.
        given: Options of the command line that decide, for the records.
    """

    study: Study
    out: Path
    launcher: Launcher
    jobs: int = 1
    teacher: str | None = None
    given: str | None = None
    _stopped: threading.Event = field(default_factory=threading.Event)
    # Reading and formatting configs is not made for threads.
    _config_lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, runs: Sequence[Run]) -> dict[str, str]:
        """Train what is not finished; the study's teacher first.

        A run that another study of the same folder has finished is taken over
        and not trained again. A failed run does not touch the others. An
        interruption ends the trainings, whose runs then are half-finished.
        Those go on from their latest checkpoint, or start again where they
        have none.

        Args:
            runs: Runs of the study.

        Returns:
            What went wrong, by the title of the run.

        Raises:
            ValueError: If a run was trained with another config, teacher or
                arguments. No run beside the teacher is started then.
        """
        first = teacher_run(self.study, self.out)
        failures = {}
        if self.teacher is None and first is not None:
            failures = self._run_all([first])
            weights = first.checkpoint()
            if not failures and weights is None:
                failures[first.title] = (
                    f'{first.folder} is finished, but its checkpoint is gone; '
                    'remove the folder to train the teacher again, or name '
                    'its checkpoint with --teacher'
                )
            if not failures:
                self.teacher = str(weights)
        if failures:
            # Those that learn without the teacher still can.
            message = 'not started, as the teacher failed'
            needy = [run for run in runs if has_teacher(run.config())]
            failures.update({run.title: message for run in needy})
            runs = [run for run in runs if run not in needy]
        return {**failures, **self._run_all(runs)}

    def plan(self, runs: Sequence[Run]) -> list[Run]:
        """What :meth:`run` would go through, the study's teacher first.

        Raises:
            ValueError: If an option has no place in a config, or a run was
                trained with another config, teacher or arguments, as far as
                that is known before the teacher is trained.
        """
        first = teacher_run(self.study, self.out)
        if self.teacher is not None or first is None:
            self._fingerprints(runs)
            return list(runs)
        self._fingerprints([first])
        weights = first.checkpoint()
        if first.status == FINISHED and weights is not None:
            self.teacher = str(weights)
            self._fingerprints(runs)
        else:
            for run in runs:
                run.config()
        return [first, *runs]

    def _run_all(self, runs: Sequence[Run]) -> dict[str, str]:
        digests = self._fingerprints(runs)
        todo = [run for run in runs if run.status != FINISHED]
        done, failures = len(runs) - len(todo), {}
        if done:
            print(f'{done} of {len(runs)} runs are finished', flush=True)
        slots: queue.SimpleQueue[int] = queue.SimpleQueue()
        for slot in range(self.jobs):
            slots.put(slot)
        with ThreadPoolExecutor(self.jobs) as pool:
            futures = {
                pool.submit(
                    self._run_one, run, digests[run.experiment.name], slots
                ): run
                for run in todo
            }
            try:
                for future in as_completed(futures):
                    done, run = done + 1, futures[future]
                    message = _outcome(future)
                    if future.exception() is not None:
                        failures[run.title] = message
                        message = f'FAILED: {message}'
                    progress = f'[{done}/{len(runs)}] {run.title}'
                    print(f'{progress}: {message}', flush=True)
            except KeyboardInterrupt:
                self._stopped.set()
                self.launcher.stop()
                raise
        return failures

    def _fingerprints(self, runs: Sequence[Run]) -> dict[str, str]:
        """Fingerprint of every experiment, compared with those recorded."""
        found: dict[str, str] = {}
        arguments = list(self.launcher.arguments)
        if (self.launcher.gpus or 1) > 1:  # another batch of all together
            arguments.append(f'--gpus {self.launcher.gpus}')
        for run in runs:
            if run.experiment.name not in found:
                found[run.experiment.name] = fingerprint(
                    run, self.teacher, arguments
                )
        others = [
            run
            for run in [*runs, *self._other_seeds(runs)]
            if run.holds_other_work(found[run.experiment.name])
        ]
        if others:
            first = why_other(
                others[0],
                self.teacher,
                self.launcher.arguments,
                self.launcher.gpus or 1,
            )
            folders = ', '.join(str(run.folder) for run in others)
            count = len(others)
            raise ValueError(
                f'{count} {"runs were" if count > 1 else "run was"} trained '
                f'with another config, teacher or arguments ({first}): '
                f'{folders}; move them away, or choose another folder with '
                '--out'
            )
        return found

    def _other_seeds(self, runs: Sequence[Run]) -> list[Run]:
        """Runs that will share a row of the table with those to train."""
        of_study = [run for run in runs if run.experiment.name != TEACHER]
        if not of_study:
            return []
        names = {run.experiment.name for run in of_study}
        found = runs_of(self.study, self.out, names)
        return [run for run in found if run not in runs]

    def _run_one(
        self, run: Run, digest: str, slots: queue.SimpleQueue[int]
    ) -> str:
        slot = slots.get()
        try:
            if self._stopped.is_set():
                raise RunError('not started')
            with lock(run.folder) as held:
                # Another sweep may have been faster.
                if run.holds_other_work(digest):
                    raise RunError(
                        'trained meanwhile with another config, teacher or '
                        f'arguments, see {run.folder}; choose another folder '
                        'with --out'
                    )
                if run.status == FINISHED:
                    return 'finished elsewhere'
                twin = find_twin(run, digest, self.out.parent)
                if twin is not None:
                    return self._take_over(run, twin)
                return self._train(run, digest, slot, held)
        finally:
            slots.put(slot)

    def _take_over(self, run: Run, twin: dict[str, Any]) -> str:
        """Write the record of the same training down as this run's."""
        run.clear()
        own = dict(study=self.study.name, experiment=run.experiment.name)
        run.write_record({**twin, **own})
        return f'top-1 {twin["last"]:.2f}, as trained in {twin["trained_in"]}'

    def _train(self, run: Run, digest: str, slot: int, held: IO) -> str:
        resume = run.checkpoint() is not None
        if not resume:
            run.clear()
        config = run.folder / 'config.py'
        with self._config_lock:
            cfg = run.config(self.teacher)
            teacher = cfg.model.get('teacher_ckpt')
            record = self._record(run, digest, teacher, resume)
            # First: a folder of other files and no record is refused.
            run.write_record(record)
            cfg.dump(config)
        command = self.launcher.command(config, resume)
        log, started = run.folder / LOG, time.perf_counter()
        begun = log.stat().st_size if log.exists() else 0
        code = self.launcher.call(command, log, slot, held)
        record['seconds'] = round(time.perf_counter() - started, 3)
        if self._stopped.is_set():
            raise RunError('interrupted')
        try:
            epochs = cfg.train_cfg.get('max_epochs')
            if hook_path(cfg, 'EarlyStoppingHook'):
                epochs = None
            curve = finished_curve(run.folder, code, epochs, begun)
        except RunError as error:
            run.write_record({**record, 'status': FAILED, 'error': str(error)})
            raise
        run.write_record({**record, **result(curve), 'status': FINISHED})
        return f'top-1 {curve[-1][1]:.2f} ({record["seconds"]:.0f} s)'

    def _record(
        self, run: Run, digest: str, teacher: str | None, resume: bool
    ) -> dict[str, Any]:
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
        options = Options(device=device, threads=self.launcher.threads)
        where = environment(options, ' '.join(self.launcher.arguments))
        where['arguments'] = where.pop('command')
        return dict(
            status=RUNNING,
            study=self.study.name,
            experiment=run.experiment.name,
            config=run.experiment.config.name,
            options=run.experiment.options,
            given=self.given,
            seed=run.seed,
            teacher=teacher and Path(teacher).name,
            teacher_digest=teacher and file_digest(teacher),
            fingerprint=digest,
            resumed=resume,
            environment={
                **where,
                'processes': self.launcher.gpus or 1,
                'jobs': self.jobs,
            },
        )


def result(curve: Sequence[tuple[int, float]]) -> dict[str, Any]:
    """What a record says about the validations of a finished run."""
    best_epoch, best = max(curve, key=lambda point: (point[1], -point[0]))
    return dict(
        last=curve[-1][1], best=best, best_epoch=best_epoch, curve=list(curve)
    )


def _outcome(future: Future) -> str:
    """Result or error of a run, for the user."""
    error = future.exception()
    if error is None:
        return future.result()
    kind = '' if isinstance(error, RunError) else f'{type(error).__name__}: '
    return f'{kind}{error}'
