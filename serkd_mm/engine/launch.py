# Copyright (c) The serkd_mm authors. All rights reserved.
"""What the command lines of the tools share."""

from __future__ import annotations

import argparse
import os
import os.path as osp

from mmengine import hub
from mmengine.config import Config, DictAction

from .. import compat

# Datasets of MMPretrain that read a folder and cannot download it.
FOLDER_DATASETS = ('CustomDataset', 'ImageNet', 'ImageNet21k')


def add_runner_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that every tool with a runner has."""
    parser.add_argument(
        'config', help='path of the config file, or package::config.py'
    )
    parser.add_argument('--work-dir', help='folder for logs and checkpoints')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='overrides of the config, as key=value pairs: '
        'train_dataloader.batch_size=64 model.teacher_ckpt=teacher.pth',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='what started the processes',
    )
    # Older launchers pass --local_rank, newer ones --local-rank.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)


def load_config(args: argparse.Namespace) -> Config:
    """Read the config and put the shared options into it.

    Args:
        args: Parsed options of :func:`add_runner_arguments`.

    Returns:
        The config, ready for a runner. Its ``work_dir`` is, in this order,
        the option, the config's own, or ``work_dirs/`` and the config's name.

    Raises:
        FileNotFoundError: If the config or a folder of images is missing.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    if '::' in args.config:
        cfg = hub.get_config(args.config)
    else:
        cfg = Config.fromfile(args.config)
    cfg.launcher = args.launcher
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        name = osp.splitext(osp.basename(args.config))[0]
        cfg.work_dir = osp.join('work_dirs', name)
    if args.cfg_options is not None:
        cfg.merge_from_dict(args.cfg_options)
    _check_data_folders(cfg)
    compat.prepare_cpu_distributed(cfg)
    return cfg


def _check_data_folders(cfg: Config) -> None:
    """Say which key names a folder of images that is not there."""
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        dataset = (cfg.get(name) or {}).get('dataset', {})
        if dataset.get('type') not in FOLDER_DATASETS:
            continue
        root = dataset.get('data_root') or '.'
        if '://' not in root and not osp.isdir(root):
            raise FileNotFoundError(
                f'{name}.dataset.data_root {root!r} is not a folder; put the '
                f'images there or set {name}.dataset.data_root (train, val '
                'and test have one each)'
            )
