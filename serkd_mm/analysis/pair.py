# Copyright (c) The serkd_mm authors. All rights reserved.
"""Try a pair of teacher and student on random images."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmengine.runner import set_random_seed
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS
from torch import nn

from ..engine.config_checks import check_config
from ..engine.model_checks import (
    check_batch_count,
    check_batch_norm,
    check_instance_losses,
)
from ..engine.optimizers import AMP_ARGUMENTS
from ..engine.random_state import kept_random_state
from ..engine.run_config import unscoped_type
from ..engine.student_config import student_architecture
from ..models.algorithms.class_checks import class_count
from ..models.algorithms.teacher import build_teacher
from .cost import count_flops, time_steps
from .findings import NetworkCost, PairReport, Step
from .gradients import parameters_without_gradient
from .images import dataset_length, input_size
from .inspector import PairInspector
from .weights import initialise, load_teacher

ALGORITHM_KEYS = ('architecture', 'teacher', 'distiller')


@dataclass(frozen=True)
class CheckOptions:
    """How a pair is tried.

    Attributes:
        batch_size: Images of a step; None takes the config's, on a CPU at
            most as many as have the pixels of 8 images of 224x224.
        steps: Steps that are timed.
        device: ``'cpu'`` or ``'cuda'``.
        size: Height and width of the images; None takes what the training
            pipeline puts out.
        images: Images of an epoch; None takes what the config tells.
        random_teacher: Whether to leave the teacher's checkpoint alone.
    """

    batch_size: int | None = None
    steps: int = 3
    device: str = 'cpu'
    size: tuple[int, int] | None = None
    images: int | None = None
    random_teacher: bool = False


def check_pair(
    cfg: Config, name: str, options: CheckOptions | None = None
) -> PairReport:
    """Build both networks, run a batch of random images, look at all of it.

    What does not fit is collected, not raised, as far as the rest can still
    be tried.

    Args:
        cfg: Config of a distillation.
        name: What to call it.
        options: How to try it.

    Raises:
        ValueError: If the config is no distillation, or does not tell the
            size of its images.
    """
    options = options or CheckOptions()
    missing = [
        key for key in ALGORITHM_KEYS if key not in (cfg.get('model') or {})
    ]
    if missing:
        raise ValueError(
            f'{name} is no config of a distillation: its model has no '
            f'{", ".join(missing)}'
        )
    size = options.size or input_size(cfg)
    report = PairReport(name, size, _batch_size(cfg, size, options))
    scope = cfg.model.get('_scope_') or cfg.get('default_scope', 'mmpretrain')
    scoped = DefaultScope.overwrite_default_scope(scope)
    with scoped, kept_random_state(), _quietly(report):
        set_random_seed(0)
        try:
            _check(cfg, options, report)
        except torch.cuda.OutOfMemoryError as error:
            report.problem('train_dataloader.batch_size', error)
    return report


def _check(cfg: Config, options: CheckOptions, report: PairReport) -> None:
    try:
        check_config(cfg)
    except (TypeError, ValueError) as error:
        report.problem('config', error)
    model = cfg.model
    student = _built('model.architecture', report, _build_student, cfg)
    teacher = _built(
        'model.teacher',
        report,
        build_teacher,
        model.teacher,
        model.get('teacher_ckpt'),
    )
    distiller = _built(
        'model.distiller', report, MODELS.build, model.distiller
    )
    if student is not None:
        weights = initialise(student, cfg, report)
        _note_cost('student', student, weights, report)
    if teacher is not None:
        weights = load_teacher(teacher, cfg, options.random_teacher, report)
        _note_cost('teacher', teacher, weights, report)
    if student is None or teacher is None or distiller is None:
        return
    for module in (student, teacher, distiller):
        module.to(options.device)
    data = random_batch(student, report.size, report.batch_size)
    PairInspector(distiller, student, teacher, report).run(data)
    # A checkpoint that is not there yet keeps no step from being timed.
    if all(p.key == 'model.teacher_ckpt' for p in report.problems):
        _time(cfg, options, student, teacher, data, report)


def random_batch(
    student: nn.Module, size: tuple[int, int], batch_size: int
) -> dict:
    """Pixels and labels as a data loader hands them over."""
    classes = class_count(student) or 2
    labels = torch.randint(classes, (batch_size,)).tolist()
    return dict(
        inputs=torch.randint(0, 256, (batch_size, 3, *size)).float(),
        data_samples=[DataSample().set_gt_label(label) for label in labels],
    )


def _build_student(cfg: Config) -> nn.Module:
    return MODELS.build(student_architecture(cfg))


def _built(
    key: str, report: PairReport, build: Callable[..., Any], *arguments: Any
) -> Any:
    try:
        return build(*arguments)
    except Exception as error:
        report.problem(key, error)
        return None


def _note_cost(
    side: str, network: nn.Module, weights: str, report: PairReport
) -> None:
    try:
        flops = count_flops(network, report.size)
    except Exception:
        # That it does not run is reported where it has to run.
        flops = None
    backbone = type(getattr(network, 'backbone', network)).__name__
    parameters = sum(p.numel() for p in network.parameters())
    report.networks.append(
        NetworkCost(side, backbone, parameters, flops, weights)
    )


def _time(
    cfg: Config,
    options: CheckOptions,
    student: nn.Module,
    teacher: nn.Module,
    data: dict,
    report: PairReport,
) -> None:
    """Train some steps as the runner would."""
    model = {k: v for k, v in cfg.model.items() if k != 'data_preprocessor'}
    model.update(
        architecture=student,
        teacher=teacher,
        teacher_ckpt=None,
        allow_random_teacher=True,
    )
    try:
        algorithm = MODELS.build(model).to(options.device).train()
    except Exception as error:
        report.problem('model', error)
        return
    try:
        if not cfg.get('sync_bn'):  # which several processes may use
            check_batch_norm(cfg, algorithm)
        check_instance_losses(cfg, algorithm)
        images = _images(cfg, options, report)
    except ValueError as error:
        report.problem('train_dataloader.batch_size', error)
        return
    try:
        optimizer = build_optim_wrapper(algorithm, _wrapper(cfg, options))
    except Exception as error:
        report.problem('optim_wrapper', error)
        return
    with parameters_without_gradient(algorithm) as missing:
        milliseconds, memory = time_steps(
            algorithm, optimizer, data, options.steps
        )
    _note_unreached(cfg, list(missing.values()), report)
    report.step = Step(
        device=_device_name(options.device),
        batch_size=report.batch_size,
        milliseconds=milliseconds,
        memory_mib=memory,
        images=images,
        epochs=(cfg.get('train_cfg') or {}).get('max_epochs'),
    )


def _note_unreached(cfg: Config, names: list[str], report: PairReport) -> None:
    """Name what has no gradient, unless several processes know of it."""
    wrapper = cfg.get('model_wrapper_cfg') or cfg
    if names and not wrapper.get('find_unused_parameters'):
        report.notes.append(
            f'No loss gives {", ".join(names[:3])}'
            f'{", ..." * (len(names) > 3)} a gradient ({len(names)} '
            'parameters), for which several processes would wait: leave them '
            'out, or set find_unused_parameters=True.'
        )


def _images(
    cfg: Config, options: CheckOptions, report: PairReport
) -> int | None:
    """Images of an epoch of one process, None if unknown.

    Raises:
        ValueError: If they do not make a batch.
    """
    images = options.images
    if images is None:
        try:
            images = dataset_length(cfg)
        except Exception as error:  # of any kind of data that is not there
            report.notes.append(
                'The training set could not be counted: '
                f'{type(error).__name__}: {error}'
            )
    loader = cfg.get('train_dataloader') or {}
    if images is not None and 'batch_size' in loader:
        check_batch_count(
            images, loader['batch_size'], loader.get('drop_last', False)
        )
    return images


def _wrapper(cfg: Config, options: CheckOptions) -> dict:
    """The config's optimizer; mixed precision needs a GPU."""
    wrapper = cfg.optim_wrapper.copy()
    if options.device == 'cpu' and unscoped_type(wrapper) == 'AmpOptimWrapper':
        wrapper['type'] = 'OptimWrapper'
        for name in AMP_ARGUMENTS:
            wrapper.pop(name, None)
    return wrapper


def _device_name(device: str) -> str:
    if device == 'cuda':
        return torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    return f'CPU, {threads} thread' + 's' * (threads > 1)


def _batch_size(
    cfg: Config, size: tuple[int, int], options: CheckOptions
) -> int:
    if options.batch_size is not None:
        return options.batch_size
    own = (cfg.get('train_dataloader') or {}).get('batch_size', 8)
    if not isinstance(own, int):
        raise ValueError(
            f'train_dataloader.batch_size must be a whole number, got {own!r}'
        )
    if options.device == 'cuda':
        return own
    return min(own, max(2, 8 * 224 * 224 // math.prod(size)))


@contextmanager
def _quietly(report: PairReport) -> Iterator[None]:
    """Keep logs off the screen; warnings are notes of the report."""
    logger = MMLogger.get_current_instance()
    handlers, logger.handlers = logger.handlers, [_Notes(report)]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logger.handlers = handlers


class _Notes(logging.Handler):
    """Log handler that keeps warnings as notes of a report."""

    def __init__(self, report: PairReport) -> None:
        super().__init__(logging.WARNING)
        self.report = report

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        # The table says so, and why.
        if not text.startswith('The teacher has RANDOM weights'):
            self.report.notes.append(text)
