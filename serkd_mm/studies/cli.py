# Copyright (c) The serkd_mm authors. All rights reserved.
"""The command line of ``tools/ablate.py``."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..outputs import check_out_folder
from .arguments import (
    as_cfg_options,
    deciding_options,
    make_parser,
    train_switches,
)
from .process import Launcher, visible_gpus
from .report import write_report
from .runs import FINISHED, Run, gather_runs, runs_of
from .study import Study, find_studies, load_study
from .summary import commands_of
from .sweep import Sweep


def main(root: Path, arguments: Sequence[str] | None = None) -> None:
    """Read the command line and do what it says.

    Args:
        root: Folder of ``configs`` and ``tools``.
        arguments: The command line, None for that of the process.
    """
    parser = make_parser()
    args = parser.parse_args(arguments)
    try:
        if args.command == 'list' and args.study is None:
            for path in find_studies(_studies(root)).values():
                print(_summary(load_study(path)))
            return
        study = load_study(_find(root, args.study))
        study = study.with_options(getattr(args, 'cfg_options', None) or {})
        out = args.out.resolve() / study.name
        if args.command == 'table':
            runs = _gathered(args, study, out)
            commands = commands_of(study, runs, named=args.study)
            print(_table(args, study, out, runs, commands))
            return
        runs = runs_of(study, out, args.only, args.seeds)
        if args.command == 'list':
            _show(_listing(study, runs, root, args.study))
        else:
            _run(parser, args, study, out, runs, root)
    except (ValueError, FileNotFoundError) as error:
        parser.exit(2, f'error: {error}\n')


def _gathered(args: argparse.Namespace, study: Study, out: Path) -> list[Run]:
    """Runs of a table, from all folders that were named."""
    only = args.only
    if only and study.baseline not in (None, *only):
        # What the others are compared with.
        only = [*only, study.baseline]
    others = [also.resolve() / study.name for also in args.also]
    for other in others:
        if not other.is_dir():
            raise FileNotFoundError(f'--also: {other} does not exist')
    return gather_runs(study, [out, *others], only, args.seeds)


def _show(text: str) -> None:
    """Print what may be more than whoever reads it, ``head`` say, wants."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Nor can it be written at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(
    parser: argparse.ArgumentParser,
    args: argparse.Namespace,
    study: Study,
    out: Path,
    runs: list[Run],
    root: Path,
) -> None:
    jobs = _jobs(parser, args)
    if args.teacher is not None and not args.teacher.is_file():
        raise FileNotFoundError(f'--teacher {args.teacher} is not a file')
    launcher = Launcher(
        root / 'tools', args.threads, args.gpus, tuple(train_switches(args))
    )
    teacher = args.teacher and str(args.teacher.resolve())
    given = deciding_options(args)
    sweep = Sweep(study, out, launcher, jobs, teacher, given)
    planned = sweep.plan(runs)
    if args.dry_run:
        for run in planned:
            command = launcher.command(run.folder / 'config.py')
            print(f'{run.title} ({run.status}): {shlex.join(command)}')
        return
    check_out_folder(args.out, '--out')
    if args.save is not None:
        check_out_folder(args.save, '--save')
    # Ending the sweep ends its trainings.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        failures = sweep.run(runs)
    except KeyboardInterrupt:
        parser.exit(130, 'interrupted; the same command goes on\n')
    finally:
        signal.signal(signal.SIGTERM, before)
    # What others have trained before stays in the table.
    seeds = sorted({*study.seeds, *(args.seeds or ())})
    others = [r for r in runs_of(study, out, seeds=seeds) if r.record()]
    shown = runs + [run for run in others if run not in runs]
    if any(run.status == FINISHED for run in shown):
        # By their fingerprints, these had the options that are given now.
        known = {run.folder: given for run in runs}
        commands = commands_of(study, shown, known, args.study)
        print(_table(args, study, out, shown, commands))
    for title, message in failures.items():
        print(f'FAILED: {title}: {message}', file=sys.stderr)
    if failures:
        parser.exit(1, f'{_count(len(failures), "run")} failed\n')


def _jobs(parser: argparse.ArgumentParser, args: argparse.Namespace) -> int:
    """Trainings at a time, such that their threads fit the cores."""
    # Where the system tells, the cores that this process may use.
    affinity = getattr(os, 'sched_getaffinity', None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    numbers = (args.jobs, args.threads, args.gpus)
    if any(number is not None and number < 1 for number in numbers):
        parser.error('--jobs, --threads and --gpus must be at least 1')
    visible = visible_gpus()
    if args.gpus and 0 < len(visible) < args.gpus:
        parser.error(
            f'--gpus {args.gpus} is more than CUDA may use here: GPU '
            f'{", ".join(visible)}'
        )
    each = args.threads * (args.gpus or 1)
    jobs = args.jobs
    if jobs is None:
        jobs = 1 if torch.cuda.is_available() else max(cores // each, 1)
    if (args.jobs or args.threads > cores) and jobs * each > cores:
        parser.error(
            f'{jobs} jobs of {each} threads are more than the {cores} cores; '
            'lower --jobs, --threads or --gpus'
        )
    return jobs


def _table(
    args: argparse.Namespace,
    study: Study,
    out: Path,
    runs: list[Run],
    commands: Sequence[str],
) -> str:
    folder = args.save or out
    text = write_report(study, runs, out, folder, commands)
    files = f'{study.name}.md, .csv, .png and {study.name}_runs.csv'
    return f'\n{text}\nWritten to {folder}: {files}'


def _studies(root: Path) -> Path:
    return root / 'configs' / 'studies'


def _find(root: Path, name: str) -> Path:
    """File of a study by its name or path."""
    known = find_studies(_studies(root))
    if name in known:
        return known[name]
    if Path(name).is_file():
        return Path(name)
    raise FileNotFoundError(
        f'{name!r} is no study of {_studies(root)} and no file; there are '
        f'{", ".join(known)}'
    )


def _summary(study: Study) -> str:
    return (
        f'{study.name:<13} {_count(len(study.experiments), "experiment"):>14} '
        f'x {_count(len(study.seeds), "seed")}: {study.title}'
    )


def _listing(study: Study, runs: Sequence[Run], root: Path, named: str) -> str:
    """Experiments with the paper's number, state and config."""
    lines = [_summary(study)]
    if study.options:
        lines.append(
            f'  every experiment: {" ".join(as_cfg_options(study.options))}'
        )
    for experiment in study.experiments:
        own = [run for run in runs if run.experiment == experiment]
        if not own:
            continue
        done = sum(run.status == FINISHED for run in own)
        paper = experiment.paper
        line: list[Any] = [
            f'  {experiment.name:<32}',
            f'paper {"-" if paper is None else paper:<6}',
            f'{done}/{len(own)} finished ',
            os.path.relpath(experiment.config, root),
        ]
        own_options = {
            key: value
            for key, value in experiment.options.items()
            if (key, value) not in study.options.items()
        }
        lines.append(' '.join([*line, *as_cfg_options(own_options)]))
    command = f'python tools/ablate.py run {shlex.quote(named)}'
    first = runs[0].experiment.name
    lines.append(f'one:  {command} --only {first} [--gpus 8]')
    lines.append(f'all:  {command} [--gpus 8]')
    return '\n'.join(lines)


def _count(number: int, noun: str) -> str:
    return f'{number} {noun}{"" if number == 1 else "s"}'
