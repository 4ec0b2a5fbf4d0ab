# Copyright (c) The serkd_mm authors. All rights reserved.
"""Try teacher and student of a config on random images, without data.

python tools/check_pair.py configs/serkd_deit-ti.py
python tools/check_pair.py --suggest TEACHER STUDENT --out my_pair.py
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from serkd_mm.analysis import (
    CheckOptions,
    check_pair,
    config_text,
    read_config,
    save_pair,
    show_pair,
    suggest,
)
from serkd_mm.engine.cfg_options import CfgOptions, merge_options
from serkd_mm.engine.config_keys import check_types
from serkd_mm.outputs import check_out_file


def parse_args(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Try teacher and student of a config on random images,\n'
        'or write a config for two networks.',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='example:\n  python tools/check_pair.py --suggest '
        'vit-small-p14_dinov2-pre_3rdparty \\\n'
        '    resnet18_8xb32_in1k --out dinov2_resnet18.py',
    )
    parser.add_argument(
        'config', nargs='?', help='config, or package::config.py'
    )
    parser.add_argument(
        '--suggest',
        nargs=2,
        metavar=('TEACHER', 'STUDENT'),
        help="write a config for two networks, names of MMPretrain's model "
        "zoo or configs, and check it; data and schedule are the student's",
    )
    parser.add_argument(
        '--out', type=Path, help='file for the suggested config'
    )
    parser.add_argument(
        '--batch-size',
        type=int,
        help="images of a step (default: the config's, on a CPU at most as "
        'many as have the pixels of 8 images of 224x224)',
    )
    parser.add_argument(
        '--size',
        type=int,
        nargs='+',
        help='height and width of the images, or one number for both '
        '(default: what the training pipeline puts out)',
    )
    parser.add_argument(
        '--images',
        type=int,
        help="images of an epoch (default: the config's, if it tells)",
    )
    parser.add_argument(
        '--steps',
        type=int,
        default=3,
        help='steps that are timed (default: %(default)s)',
    )
    parser.add_argument(
        '--device',
        choices=('cpu', 'cuda'),
        default='cuda' if torch.cuda.is_available() else 'cpu',
        help='where they run (default: cuda if there is one, here '
        '%(default)s)',
    )
    parser.add_argument(
        '--random-teacher',
        action='store_true',
        help="leave the teacher's checkpoint alone",
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=CfgOptions,
        default={},
        help='overrides of the config, key=value',
    )
    parser.add_argument('--json', type=Path, help='file for the findings')
    args = parser.parse_args(arguments)
    if (args.config is None) == (args.suggest is None):
        parser.error('give a config, or --suggest TEACHER STUDENT')
    if args.suggest and args.out is None:
        parser.error('--suggest needs --out FILE.py')
    if args.out is not None and not args.suggest:
        parser.error('--out is for --suggest; --json writes the findings')
    if args.device == 'cuda' and not torch.cuda.is_available():
        parser.error('--device cuda: PyTorch finds no CUDA device')
    if args.out is not None and args.out.suffix != '.py':
        parser.error(f'--out must be a .py file, got {args.out}')
    if args.out is not None and args.out.exists():
        parser.error(f'{args.out} exists; name another file')
    for name in ('batch_size', 'steps', 'images'):
        value = getattr(args, name)
        if value is not None and value < 1:
            parser.error(f'--{name.replace("_", "-")} must be at least 1')
    if args.size is not None:
        if len(args.size) > 2 or min(args.size) < 1:
            parser.error('--size takes one or two positive numbers')
        args.size = (args.size[0], args.size[-1])
    return args


def write_suggestion(args: argparse.Namespace) -> str:
    """Write the config for two networks; its path."""
    teacher, student = args.suggest
    suggestion = suggest(teacher, student, args.size)
    text = config_text(suggestion, args.out)
    args.out.write_text(text, encoding='utf-8')
    print(f'Written to {args.out}.')
    for note in suggestion.notes:
        print(f'- {note}')
    print()
    return str(args.out)


def main(arguments: list[str] | None = None) -> int:
    args = parse_args(arguments)
    try:
        for option in ('out', 'json'):
            if getattr(args, option) is not None:
                check_out_file(getattr(args, option), f'--{option}')
        name = write_suggestion(args) if args.suggest else args.config
        cfg = read_config(name)
        merge_options(cfg, args.cfg_options)
        check_types(cfg)
        report = check_pair(
            cfg,
            name,
            CheckOptions(
                batch_size=args.batch_size,
                steps=args.steps,
                device=args.device,
                size=args.size,
                images=args.images,
                random_teacher=args.random_teacher,
            ),
        )
    except (FileNotFoundError, TypeError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    show_pair(report)
    if args.json is not None:
        save_pair(report, args.json)
    return 0 if report.fits else 1


if __name__ == '__main__':
    sys.exit(main())
