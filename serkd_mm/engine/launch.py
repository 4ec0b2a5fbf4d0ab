# Copyright (c) The serkd_mm authors. All rights reserved.
"""What the command lines of the tools share."""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import os.path as osp
import traceback
from collections.abc import Iterator

import torch
from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import BaseLoop, Runner
from mmrazor.registry import MODELS
from torch import distributed, nn

from .. import compat
from ..models import FrozenTeacherDistill
from .cfg_options import CfgOptions, merge_options
from .config_errors import config_errors
from .config_file import read_config
from .config_keys import HOST_HOOKS
from .hooks import BrokenImagesHook
from .model_checks import (
    check_batch_norm,
    check_batches,
    check_heads,
    check_instance_losses,
    check_teacher_loop,
    check_unused_parameters,
)
from .pipeline_size import pipeline_of, pipeline_size
from .pretrained_checks import check_load_from, check_pretrained
from .run_config import unscoped
from .student_config import student_architecture
from .whole_checkpoint import require_whole_checkpoint

# Environment variable: when the launcher started, in seconds since the epoch.
STARTED = 'SERKD_MM_STARTED'


def add_runner_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that every tool with a runner has."""
    parser.add_argument(
        'config', help='path of the config file, or package::config.py'
    )
    parser.add_argument(
        '--work-dir',
        help="folder for logs and checkpoints (default: the config's, or "
        'work_dirs/NAME after the name of the config)',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=CfgOptions,
        help='overrides of the config, as key=value pairs: '
        'train_dataloader.batch_size=64 model.teacher_ckpt=teacher.pth',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='what started the processes (default: %(default)s)',
    )
    # Older launchers pass --local_rank, newer ones --local-rank.
    parser.add_argument(
        '--local_rank',
        '--local-rank',
        type=int,
        default=0,
        metavar='RANK',
        help='set by some launchers, not by hand (default: %(default)s)',
    )


def check_device_count(launcher: str) -> None:
    """Refuse more processes of a machine than it has GPUs.

    Each would fail in CUDA, with "invalid device ordinal".

    Raises:
        ValueError: If the PyTorch launcher has started more.
    """
    devices = torch.cuda.device_count()
    started = int(os.environ.get('LOCAL_WORLD_SIZE', 1))
    if launcher == 'pytorch' and 0 < devices < started:
        raise ValueError(
            f'{started} processes were started on a machine of {devices} '
            f'visible GPU{"s" * (devices > 1)}; start as many as there are, '
            'tools/dist_train.sh CONFIG '
            f'{devices}, or hide them all (CUDA_VISIBLE_DEVICES=) to train '
            'on CPUs'
        )


def require_model(cfg: Config) -> None:
    """Refuse a config without a model.

    Raises:
        ValueError: If it has none, or something else in its place.
    """
    model = cfg.get('model')
    if model and not isinstance(model, (dict, nn.Module)):
        raise ValueError(f'config key model must be a dict, got {model!r}')
    if not model:
        raise ValueError(
            f'config {cfg.filename!r} has no model; name one that says what '
            'is trained'
        )


def load_config(args: argparse.Namespace) -> Config:
    """Read the config and put the shared options into it.

    Args:
        args: Parsed options of :func:`add_runner_arguments`.

    Returns:
        The config, ready for a runner. Its ``work_dir`` is, in this order,
        the option, the config's own, or ``work_dirs/`` and the config's name.

    Raises:
        FileNotFoundError: If the config does not exist.
        ValueError: If it cannot be read or has no model, or if there are
            more processes than GPUs.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = read_config(args.config)
    cfg.launcher = args.launcher
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        # Without the package of package::config.py.
        path = args.config.rpartition('::')[2]
        name = osp.splitext(osp.basename(path))[0]
        cfg.work_dir = osp.join('work_dirs', name)
    if args.cfg_options is not None:
        merge_options(cfg, args.cfg_options)
    require_model(cfg)
    check_device_count(args.launcher)
    compat.prepare_cpu_distributed(cfg)
    return cfg


@contextlib.contextmanager
def clean_exit() -> Iterator[None]:
    """Let go of a run at the end of the block, before the process exits.

    The run must be the block's own, as its process group ends with the last
    reference to it. A process that exits inside one can be aborted, its work
    done: the group's threads may ask for an interpreter that is going away.
    After an error the group is kept, since leaving it may wait for the other
    ranks.
    """
    try:
        yield
    except SystemExit as stop:
        traceback.clear_frames(stop.__traceback__)
        _let_go()
        raise
    _let_go()


def _let_go() -> None:
    if distributed.is_available() and distributed.is_initialized():
        # The group must not end with the model wrapper, a part of cycles: the
        # garbage collector would wait for the group's threads, and they for
        # the interpreter, for ever. A reference from Python ends without it.
        group = distributed.group.WORLD
        distributed.destroy_process_group()
        gc.collect()
        del group


@contextlib.contextmanager
def workers_end(runner: Runner) -> Iterator[None]:
    """End what the runner's data loaders keep running, also on errors."""
    try:
        yield
    finally:
        for loop in (runner._train_loop, runner._val_loop, runner._test_loop):
            if isinstance(loop, BaseLoop):
                compat.end_persistent_workers(loop.dataloader)


def train(cfg: Config) -> nn.Module:
    """Train what a config describes.

    Args:
        cfg: Config of the runner, one that ``check_config`` and ``check_data``
            let pass.

    Returns:
        The trained model.

    Raises:
        Exception: Whatever the runner raises, with the path and the values of
            the config's part that it comes from in the last line.
        ValueError: If a setting cannot be meant, or there was nothing to
            train on.
    """
    fill_input_size(cfg)
    with config_errors(cfg):
        runner = build_runner(cfg)
        check_pretrained(runner.model)
        check_heads(runner.model)
        check_batch_norm(cfg, runner.model)
        check_instance_losses(cfg, runner.model)
        check_unused_parameters(cfg, runner.model)
        check_teacher_loop(cfg, runner.model)
        if cfg.get('resume'):
            require_whole_checkpoint(runner)
        elif cfg.get('load_from'):
            check_load_from(cfg.load_from, runner.model)
        with workers_end(runner):
            check_batches(runner)
            model = runner.train()
        if runner.iter == 0:
            raise ValueError(
                'nothing was trained: train_dataloader gave no batch for '
                f'train_cfg={cfg.train_cfg}; is its dataset empty?'
            )
        return model


def fill_input_size(cfg: Config) -> None:
    """Let a distillation try its losses at the size that it will train at.

    Networks whose backbones have no ``img_size`` would else show only with
    the first batch that something does not fit together.

    Args:
        cfg: Config of the runner. A :class:`FrozenTeacherDistill` without
            ``input_size`` gets what the training pipeline puts out, if that
            is one size.
    """
    model = cfg.get('model') or {}
    kind = model.get('type')
    algorithm = kind if isinstance(kind, type) else MODELS.get(unscoped(kind))
    distils = isinstance(algorithm, type) and issubclass(
        algorithm, FrozenTeacherDistill
    )
    if not distils or model.get('input_size') is not None:
        return
    dataset = (cfg.get('train_dataloader') or {}).get('dataset')
    with contextlib.suppress(ValueError):
        model['input_size'] = pipeline_size(pipeline_of(dataset))


def build_runner(cfg: Config) -> Runner:
    """Build the runner of a config, MMEngine's default or ``runner_type``.

    Classes without a scope are MMPretrain's unless the config says others.
    None in ``default_hooks`` leaves a hook out. Every run counts the broken
    images that it replaces.
    """
    cfg.setdefault('default_scope', 'mmpretrain')
    if isinstance(cfg.get('randomness'), dict):
        # The host demands it, though none is its own default.
        cfg.randomness.setdefault('seed', None)
        if cfg.randomness.get('deterministic'):
            # Before PyTorch 2.9 the first product on CUDA fails without it.
            os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
    build = RUNNERS.build if 'runner_type' in cfg else Runner.from_cfg
    hooks = cfg.get('default_hooks') or {}
    for name in set(hooks).difference(HOST_HOOKS):
        if hooks[name] is None:
            hooks.pop(name)
    runner: Runner = build(cfg)
    runner.register_hook(BrokenImagesHook())
    return runner


def rename_dump(cfg: Config, prefix: str) -> None:
    """Let the runner keep the config under another name in the work dir.

    The runner writes it under its own name, where that of a training may lie.

    Args:
        cfg: Config of the runner.
        prefix: What the name gets in front.
    """
    if cfg.filename is not None:
        folder, name = osp.split(cfg.filename)
        # A config takes its attributes for keys.
        object.__setattr__(
            cfg, '_filename', osp.join(folder, f'{prefix}{name}')
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
    # The student's types are looked up as training looks them up.
    scope = cfg.model.get('_scope_')
    cfg.model = dict(
        **({} if scope is None else dict(_scope_=scope)),
        type='mmrazor.BaseAlgorithm',
        architecture=student_architecture(cfg),
        # Named, so that the runner does not fill in the config's own one.
        data_preprocessor=None,
    )


def resume_after_restart(cfg: Config) -> None:
    """Let a job that its launcher restarted go on from its last checkpoint.

    Its own is one that was written after ``tools/launch.py`` started, which
    leaves the time in the environment. One that an earlier run left in the
    work dir is as before the affair of ``--resume``.

    Args:
        cfg: Config of the runner; ``resume`` and ``load_from`` are set.
    """
    started = os.environ.get(STARTED)
    last = osp.join(cfg.work_dir, 'last_checkpoint')
    if started is None or not osp.exists(last):
        return
    if osp.getmtime(last) >= float(started):
        cfg.resume, cfg.load_from = True, None
