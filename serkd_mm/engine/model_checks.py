# Copyright (c) The serkd_mm authors. All rights reserved.
"""Settings that do not fit the model or the images of a training."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

from mmengine.config import Config
from mmengine.dist import get_world_size
from mmengine.runner import Runner
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..models import FrozenTeacherDistill
from ..models.algorithms.class_checks import check_one_hot
from ..models.heads.check_head import check_head
from ..models.losses import InstanceAngleLoss, InstanceDistanceLoss
from .config_checks import hook_path
from .run_config import unscoped_type


def check_batch_norm(cfg: Config, model: nn.Module) -> None:
    """Refuse batches of one image where batch statistics are trained.

    Args:
        cfg: Config of the runner.
        model: Model of the runner.

    Raises:
        ValueError: If each process normalises over a single image.
    """
    if _batch_size(cfg) != 1:
        return
    model.train()
    for name, module in model.named_modules():
        synced = isinstance(module, nn.SyncBatchNorm) and get_world_size() > 1
        norm = isinstance(module, _BatchNorm) and not synced
        if norm and module.training:
            raise ValueError(
                'train_dataloader.batch_size is 1, but the student has batch '
                f'norm ({name}), which would normalise every image by itself;'
                ' set train_dataloader.batch_size to 2 or more, or '
                "sync_bn='torch' with several processes"
            )


def check_batches(runner: Runner) -> None:
    """Refuse a training set that gives no batch, before an epoch of none.

    Builds the training loop, as training would. What does not know its length
    passes.

    Args:
        runner: Runner of the training.

    Raises:
        ValueError: If a process has no images, or fewer than a batch and
            drops the last one.
    """
    loader: Any = getattr(runner.train_loop, 'dataloader', None)
    size = getattr(loader, 'batch_size', None)
    if size is not None and isinstance(loader.sampler, Sized):
        check_batch_count(len(loader.sampler), size, loader.drop_last)


def check_batch_count(images: int, batch_size: int, drop_last: bool) -> None:
    """Refuse fewer images than make one training batch.

    Args:
        images: Images of an epoch of one process.
        batch_size: Images of a batch.
        drop_last: Whether a last batch that is smaller is left out.

    Raises:
        ValueError: If there is no batch.
    """
    if images >= (batch_size if drop_last else 1):
        return
    cure = 'the dataset is empty'
    if images:
        cure = (
            'lower train_dataloader.batch_size, or set '
            'train_dataloader.drop_last=False'
        )
    raise ValueError(
        f'train_dataloader gives 0 batches: {images} images per process, '
        f'batch_size={batch_size}, drop_last={drop_last}; {cure}'
    )


def check_instance_losses(cfg: Config, model: nn.Module) -> None:
    """Refuse batches whose images have no relations to learn.

    A last batch that is smaller trains nothing by these losses, and may.

    Args:
        cfg: Config of the runner.
        model: Model of the runner.

    Raises:
        ValueError: If each process compares fewer than three images.
    """
    size = _batch_size(cfg)
    if size not in (1, 2):
        return
    for name, module in model.named_modules():
        if isinstance(module, (InstanceAngleLoss, InstanceDistanceLoss)):
            raise ValueError(
                f'train_dataloader.batch_size is {size}, but {name} '
                f'({type(module).__name__}) compares the images of a batch '
                'and learns nothing of fewer than 3; set '
                'train_dataloader.batch_size to 3 or more'
            )


def check_unused_parameters(cfg: Config, model: nn.Module) -> None:
    """Refuse to stop distilling where processes wait for its gradients.

    A :class:`FrozenTeacherDistill` has some for them.

    Args:
        cfg: Config of the runner.
        model: Model of the runner, wrapped if several processes train it.

    Raises:
        ValueError: If the distiller learns and the wrapper is not told that
            its parameters may go unused.
    """
    hook = hook_path(cfg, 'StopDistillHook')
    if hook is None or getattr(model, 'find_unused_parameters', True):
        return
    if isinstance(model.module, FrozenTeacherDistill):
        return
    distiller: Any = getattr(model.module, 'distiller', nn.Module())
    learns = [n for n, p in distiller.named_parameters() if p.requires_grad]
    if learns:
        raise ValueError(
            f'{hook} (StopDistillHook) ends distillation during training, '
            f'after which distiller.{learns[0]} and the like get no gradient, '
            'for which the processes would wait; set model.type='
            "'FrozenTeacherDistill', or find_unused_parameters=True"
        )


def check_teacher_loop(cfg: Config, model: nn.Module) -> None:
    """Refuse a validation that gives the teacher the student's images.

    Args:
        cfg: Config of the runner.
        model: Model of the runner.

    Raises:
        ValueError: If MMRazor's loop would validate the teacher in another
            normalisation than its own.
    """
    model = getattr(model, 'module', model)  # of several processes
    loop = 'SingleTeacherDistillValLoop'
    if unscoped_type(cfg.get('val_cfg')) != loop:
        return
    if getattr(model, 'renormalize', None) is not None:
        raise ValueError(
            f"val_cfg.type={loop!r} validates the teacher in the student's "
            'normalisation, which is not its own; set val_cfg=dict(), as '
            'default_hooks.teacher_check (TeacherCheckHook) says how good the '
            'teacher is'
        )


def _batch_size(cfg: Config) -> Any:
    """Images of a training batch, None where the config does not say it."""
    dataloader = cfg.get('train_dataloader')
    return (
        dataloader.get('batch_size') if isinstance(dataloader, dict) else None
    )


def check_heads(model: nn.Module) -> None:
    """Refuse networks whose head is for other tokens or labels.

    Args:
        model: Model of the runner, a classifier or a distillation of one.

    Raises:
        TypeError: If one reads tokens that are not there, see
            :func:`check_head`.
        ValueError: If soft labels have other classes than a classifier.
    """
    model = getattr(model, 'module', model)  # of several processes
    for name, module in model.named_modules():
        check_head(f'model.{name}'.rstrip('.'), module)
    check_one_hot(getattr(model, 'data_preprocessor', None), model)
