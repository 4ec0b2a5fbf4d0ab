# Copyright (c) The serkd_mm authors. All rights reserved.
"""What the command lines of the tools share."""

from __future__ import annotations

import argparse
import os
import os.path as osp
from collections.abc import Iterable

from mmengine import hub
from mmengine.config import Config, DictAction

from .. import compat
from .export import student_architecture

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
        FileNotFoundError: If the config does not exist.
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
    compat.prepare_cpu_distributed(cfg)
    return cfg


def check_data_folders(cfg: Config, names: Iterable[str]) -> None:
    """Say which key names a folder of images that is not there.

    Args:
        cfg: Config of the runner.
        names: Data loaders to look at; those that are None are left out.

    Raises:
        FileNotFoundError: If the folder of a dataset is missing.
    """
    for name in names:
        key, dataset = f'{name}.dataset', (cfg.get(name) or {}).get('dataset')
        while dataset and 'dataset' in dataset:
            key, dataset = f'{key}.dataset', dataset['dataset']
        if not dataset or dataset.get('type') not in FOLDER_DATASETS:
            continue
        root = dataset.get('data_root') or '.'
        remote = '://' in root or dataset.get('backend_args')
        if not remote and not osp.isdir(root):
            raise FileNotFoundError(
                f'{key}.data_root {root!r} is not a folder; put the images '
                f'there or set {key}.data_root (train, val and test have one '
                'each)'
            )


def leave_teacher_out(cfg: Config) -> None:
    """Make the student alone the model of a config, to test it.

    Only the student predicts, so neither the teacher's config nor its weights
    are needed. The student keeps its place in the model, so checkpoints fit.

    Args:
        cfg: Config of the runner; its model is replaced where it has a
            teacher.
    """
    if 'teacher' not in cfg.model:
        return
    cfg.model = dict(
        _scope_='mmrazor',
        type='BaseAlgorithm',
        architecture=student_architecture(cfg),
        # Named, so that the runner does not fill in the config's own one.
        data_preprocessor=None,
    )


def resume_after_restart(cfg: Config) -> None:
    """Let a job that torchrun restarted go on from its own last checkpoint.

    Acts under ``torchrun --max-restarts`` only. A first start that does not
    resume from the work dir must not find a checkpoint there: after a restart
    it would pass for the job's own.

    Args:
        cfg: Config of the runner; ``resume`` and ``load_from`` are set.

    Raises:
        FileExistsError: If a checkpoint of another job is in the work dir.
    """
    last = osp.join(cfg.work_dir, 'last_checkpoint')
    goes_on = cfg.get('resume') and cfg.get('load_from') is None
    restarts = int(os.environ.get('TORCHELASTIC_MAX_RESTARTS', '0'))
    if not restarts or goes_on or not osp.exists(last):
        return
    if os.environ['TORCHELASTIC_RESTART_COUNT'] == '0':
        raise FileExistsError(
            f'{cfg.work_dir} holds the checkpoints of an earlier run, and a '
            'job that may restart (MAX_RESTARTS, torchrun --max-restarts) '
            'would take them for its own; add --resume to go on from them, '
            f'choose another --work-dir, or remove {last}'
        )
    cfg.resume, cfg.load_from = True, None
