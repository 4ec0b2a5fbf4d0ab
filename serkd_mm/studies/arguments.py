# Copyright (c) The serkd_mm authors. All rights reserved.
"""The options of ``tools/ablate.py``, read and written."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from ..engine.cfg_options import CfgOptions, read_value


def make_parser() -> argparse.ArgumentParser:
    """The command line with its commands ``list``, ``run``, ``table``."""
    parser = argparse.ArgumentParser(
        description='Experiments over seeds, and the tables of the paper',
        epilog='example: python tools/ablate.py run digits --jobs 2',
    )
    commands = parser.add_subparsers(dest='command', required=True)
    for name, text in (
        ('list', 'show studies, or the experiments of one'),
        ('run', 'train what is not finished, then write the table'),
        ('table', 'write the table of what is finished'),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument(
            'study',
            nargs='?' if name == 'list' else None,
            help='name of a study of configs/studies, or a file',
        )
        command.add_argument(
            '--only',
            nargs='+',
            metavar='NAME',
            help='these experiments (default: all)',
        )
        command.add_argument(
            '--seeds',
            nargs='+',
            type=int,
            metavar='SEED',
            help="these seeds (default: the study's)",
        )
        command.add_argument(
            '--out',
            type=Path,
            default=Path('work_dirs/studies'),
            help='folder of the runs (default: %(default)s)',
        )
        if name != 'list':
            command.add_argument(
                '--save',
                type=Path,
                help='folder of the table (default: OUT/STUDY)',
            )
    commands.choices['table'].add_argument(
        '--also',
        nargs='+',
        type=Path,
        default=[],
        metavar='OUT',
        help='further folders of runs, as of other machines (default: none)',
    )
    _add_run_options(commands.choices['run'])
    return parser


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--jobs',
        type=int,
        help='trainings at a time (default: 1, on a CPU as many as its cores '
        'allow)',
    )
    parser.add_argument(
        '--threads',
        type=int,
        default=1,
        help='CPU threads of a process (default: %(default)s)',
    )
    parser.add_argument(
        '--gpus',
        type=int,
        help='processes of a training, by dist_train.sh (default: one without '
        'it)',
    )
    parser.add_argument(
        '--teacher',
        type=Path,
        help="checkpoint of the teacher (default: the study's own, trained "
        'first, or that of the configs)',
    )
    parser.add_argument(
        '--dry-run',
        action='store_true',
        help='print commands, train nothing; their config.py are written '
        'when a run starts',
    )
    for name in ('--amp', '--auto-scale-lr'):
        parser.add_argument(name, action='store_true', help='as in train.py')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=CfgOptions,
        help='as in train.py, for the experiments, and for the teacher where '
        'it has the block of a key',
    )


def deciding_options(args: argparse.Namespace) -> str:
    """The options of ``run`` that decide what is trained."""
    parts = []
    if args.teacher is not None:
        parts += ['--teacher', args.teacher.name]
    if args.gpus is not None:
        parts += ['--gpus', str(args.gpus)]
    parts += train_switches(args)
    if args.cfg_options:
        parts += ['--cfg-options', *as_cfg_options(args.cfg_options)]
    return shlex.join(parts)


def train_switches(args: argparse.Namespace) -> list[str]:
    """Switches that go on to train.py."""
    names = ('amp', 'auto_scale_lr')
    given = [name for name in names if getattr(args, name)]
    return [f'--{name.replace("_", "-")}' for name in given]


def as_cfg_options(options: dict[str, Any]) -> list[str]:
    """Config keys and values as ``--cfg-options`` takes them.

    Example:
        >>> as_cfg_options({'a.b': [1, 'x'], 'c': 'x,y', 'd': '12', 'e': 'x'})
        ["a.b=[1, 'x']", 'c="x,y"', 'd="12"', 'e=x']
    """
    return [f'{key}={_as_text(value)}' for key, value in options.items()]


def _as_text(value: Any) -> str:
    """A value as it is read again; in quotes where that needs them."""
    text = str(value)
    if not isinstance(value, str) or _reads_as(text, value):
        return text
    quote = "'" if '"' in text else '"'
    return f'{quote}{text}{quote}'


def _reads_as(text: str, value: str) -> bool:
    try:
        return read_value(text) == value
    except ValueError:  # taken for a list that is not closed, or a dict
        return False
