# Copyright (c) The serkd_mm authors. All rights reserved.
"""Measure speed and memory beside the forms that the code replaces.

python tools/benchmark.py relation
python tools/benchmark.py step --device cuda --out work_dirs/benchmark
"""

from __future__ import annotations

import argparse
import importlib
import logging
import shlex
import sys
from pathlib import Path

import torch
from mmengine.logging import MMLogger

from serkd_mm.benchmarks.measure import Options
from serkd_mm.outputs import check_out_folder

BENCHMARKS = ('relation', 'superpixel', 'step', 'peers')


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog='example: python tools/benchmark.py step --threads 2',
    )
    parser.add_argument(
        'benchmark', choices=BENCHMARKS, help='what to measure'
    )
    parser.add_argument(
        '--device',
        choices=('cpu', 'cuda'),
        default='cpu',
        help='what to measure on (default: %(default)s)',
    )
    parser.add_argument(
        '--out',
        type=Path,
        default=Path(__file__).resolve().parent / 'benchmark_results',
        help='folder for JSON, table and picture (default: benchmark_results '
        'beside this tool)',
    )
    parser.add_argument(
        '--threads',
        type=int,
        default=torch.get_num_threads(),
        help='CPU threads of PyTorch (default: its own, here %(default)s)',
    )
    parser.add_argument(
        '--repeats',
        type=int,
        help='rounds of timing (default: 7 to 15; of growth 3 at most)',
    )
    parser.add_argument(
        '--quick', action='store_true', help='tiny sizes, to see it run'
    )
    args = parser.parse_args(arguments)
    if args.device == 'cuda' and not torch.cuda.is_available():
        parser.error('--device cuda: PyTorch finds no CUDA device')
    for name in ('threads', 'repeats'):
        number = getattr(args, name)
        if number is not None and number < 1:
            parser.error(f'--{name} must be at least 1, got {number}')
    try:  # before minutes are spent on what could not be kept
        check_out_folder(args.out, '--out')
    except ValueError as error:
        parser.error(str(error))
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    MMLogger.get_current_instance().setLevel(logging.ERROR)
    options = Options(args.device, args.threads, args.repeats, args.quick)
    module = importlib.import_module(f'serkd_mm.benchmarks.{args.benchmark}')
    command = sys.argv[1:] if arguments is None else arguments
    command = ['python', 'tools/benchmark.py', *command]
    print(module.run(options).save(args.out, shlex.join(command)))


if __name__ == '__main__':
    main()
