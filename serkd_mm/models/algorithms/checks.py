# Copyright (c) The serkd_mm authors. All rights reserved.
"""Mistakes in a config, found when the algorithm is built."""

from __future__ import annotations

import contextlib
import inspect
import logging
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from mmengine.logging import print_log
from mmpretrain.models.classifiers import BaseClassifier, ImageClassifier
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS
from torch import nn

from ...near_names import asserted
from ...ops import without_kernels
from ..connectors import TokenMap, VisualTokens
from ..connectors.token_map import grid_like, is_grid_of
from ..heads import DeiTDistillHead
from ..heads.check_head import head_widths_named
from ..modes import buffers_kept, evaluating

if TYPE_CHECKING:
    from .frozen_teacher_distill import FrozenTeacherDistill

# As few as a loss over the images of a batch can be computed of.
IMAGES = 2


def check_parts(**parts: Any) -> None:
    """Refuse networks and distillers that are neither configs nor modules.

    Args:
        parts: Arguments of the algorithm.

    Raises:
        TypeError: If one is something else.
    """
    for name, part in parts.items():
        if not isinstance(part, (dict, nn.Module)):
            raise TypeError(
                f'model.{name} must be a config or a built module, got '
                f'{type(part).__name__} {part!r}'
            )


def check_preprocessor(network: dict) -> None:
    """Refuse a preprocessor that MMPretrain's classifiers cannot build.

    Args:
        network: Config of a student.

    Raises:
        TypeError: If its preprocessor takes no batch augmentations.
    """
    given, scope = network.get('data_preprocessor'), network.get('_scope_')
    if not (isinstance(given, dict) and given.get('type')):
        return
    if not isinstance(scope, (str, type(None))):
        return  # whoever builds it says so
    kinds = (network.get('type'), given['type'])
    with MODELS.switch_scope_and_registry(scope) as registry:
        classifier, kind = (
            registry.get(k) if isinstance(k, str) else k for k in kinds
        )
    if not (isinstance(classifier, type) and isinstance(kind, type)):
        return  # of unknown types too
    arguments = inspect.signature(kind).parameters.values()
    if issubclass(classifier, ImageClassifier) and not any(
        a.name == 'batch_augments' or a.kind is a.VAR_KEYWORD
        for a in arguments
    ):
        raise TypeError(
            f'data_preprocessor.type={kind.__name__!r} takes no '
            f'batch_augments, which {classifier.__name__} hands to it; write '
            "type='ClsDataPreprocessor' with the same mean and std, and "
            'to_rgb in the place of bgr_to_rgb'
        )


def warn_of_idle_dist_head(algorithm: FrozenTeacherDistill) -> None:
    """A head that nothing trains counts half in every prediction."""
    head = getattr(algorithm.student, 'head', None)
    if not isinstance(head, DeiTDistillHead) or head.label_dist_head:
        return
    distiller = algorithm.distiller
    compared = {
        record['recorder']
        for mapping in distiller.loss_forward_mappings.values()
        for record in mapping.values()
        if record['from_student']
    }
    recorders = distiller.student_recorders.recorders
    if not any(recorders[n].source.endswith('head_dist') for n in compared):
        print_log(
            'The student predicts with its distillation head too, but no '
            "loss takes a student recorder of source 'head.layers.head_dist', "
            'so nothing trains it; map one to a loss, or set '
            'head.label_dist_head=True',
            logger='current',
            level=logging.WARNING,
        )


def check_weights(algorithm: FrozenTeacherDistill) -> None:
    """Refuse losses that would be maximised, or weighted by no number.

    Raises:
        TypeError: If a ``loss_weight`` of the student or the distiller, or a
            ``tau`` of the distiller, is no number.
        ValueError: If one is negative, infinite or no number, or ``tau`` is 0.
    """
    for name, module in algorithm.named_modules():
        for setting in ('loss_weight', 'tau'):
            value = getattr(module, setting, None)
            distils = name.startswith('distiller.')
            if value is None or (setting == 'tau' and not distils):
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(
                    f'{name}.{setting} must be a number, got {value!r}'
                )
            positive = value > 0 or (value == 0 and setting != 'tau')
            if not (positive and math.isfinite(value)):
                wanted = '> 0' if setting == 'tau' else '>= 0'
                raise ValueError(
                    f'{name}.{setting} must be finite and {wanted}, got '
                    f'{value!r}'
                )


def check_batch_augments(algorithm: FrozenTeacherDistill) -> None:
    """Refuse batch augmentations that could not be called.

    Raises:
        TypeError: If one is neither a config nor callable.
    """
    preprocessor = algorithm.student.data_preprocessor
    augments = getattr(preprocessor, 'batch_augments', None)
    for augment in getattr(augments, 'augments', ()):
        # None leaves the batch as it is; MMPretrain adds one to ``probs``.
        if augment is not None and not callable(augment):
            raise TypeError(
                'architecture.train_cfg.augments must hold configs of batch '
                f'augmentations, got {augment!r}'
            )


@torch.no_grad()
def dry_run(
    algorithm: FrozenTeacherDistill,
    input_size: int | tuple[int, int] | None = None,
) -> None:
    """Compute all losses of two made-up images once.

    What does not fit together (a stride and a map, the grids of student and
    teacher, a backbone and its head) says so now and not after the datasets
    are read. Nothing is left behind: networks are in eval mode, buffers are
    put back, no gradient is kept and no random number drawn.

    Args:
        algorithm: Built algorithm. A student that is no classifier of
            MMPretrain, and networks of several devices or dtypes, are left
            alone.
        input_size: Height and width of the images. None takes ``img_size``
            of the student's or else the teacher's backbone, and tries nothing
            where neither has one; 0 tries nothing.

    Raises:
        ValueError: If something does not fit, or the tokens of images that
            are no squares would be taken for a square grid.
    """
    networks = (algorithm.student, algorithm.teacher)
    if input_size is None:
        backbones = (getattr(n, 'backbone', None) for n in networks)
        sizes = (getattr(b, 'img_size', None) for b in backbones)
        input_size = next((size for size in sizes if size), 0)
    places = {(p.device, p.dtype) for n in networks for p in n.parameters()}
    classifier = isinstance(algorithm.student, BaseClassifier)
    if not input_size or not classifier or len(places) != 1:
        return
    device, dtype = places.pop()
    height, width = (
        (input_size, input_size) if isinstance(input_size, int) else input_size
    )
    convolutions = (
        m for m in algorithm.student.modules() if isinstance(m, nn.Conv2d)
    )
    channels = next((m.in_channels for m in convolutions), 3)
    # Other values everywhere, for losses that compare positions or images.
    pixels = torch.linspace(
        -1, 1, IMAGES * channels * height * width, device=device, dtype=dtype
    )
    images = pixels.reshape(IMAGES, channels, height, width)
    samples = [DataSample().set_gt_label(0) for _ in range(IMAGES)]
    preprocessor = algorithm.data_preprocessor
    classes = getattr(preprocessor, 'num_classes', None)
    if classes and preprocessor.to_onehot:  # as mixed images have
        score = torch.zeros(classes, device=device)
        score[0] = 1.0
        samples = [sample.set_gt_score(score) for sample in samples]
    with contextlib.ExitStack() as stack:
        stack.enter_context(evaluating(algorithm))
        stack.enter_context(buffers_kept(algorithm))
        stack.enter_context(
            grids_checked(algorithm.distiller, (height, width))
        )
        if device.type != 'cuda' and torch.cuda.is_available():
            # The runner has yet to move the algorithm. Without a CUDA device
            # kernels stay, and say so.
            stack.enter_context(without_kernels())
        for name, network in zip(('architecture', 'teacher'), networks):
            stack.enter_context(head_widths_named(f'model.{name}', network))
        # Connectors and losses of others may draw some.
        accelerators = [device] if device.type == 'cuda' else []
        stack.enter_context(torch.random.fork_rng(accelerators))
        try:
            algorithm.loss(images, samples)
        except (AssertionError, AttributeError, KeyError) as error:
            said = asserted(error) or str((*error.args, '')[0])
            asserts = isinstance(error, AssertionError)
            if not asserts and type(samples[0]).__name__ not in said:
                raise
            raise type(error)(
                f'{said}; before data is read, all losses are tried on '
                'made-up samples that have a label and nothing else: set '
                'model.input_size=0 to leave that out'
            ) from error


@contextlib.contextmanager
def grids_checked(
    distiller: nn.Module, size: tuple[int, int]
) -> Iterator[None]:
    """Refuse a square grid of a sequence from images that are no squares.

    Args:
        distiller: Its connectors are watched inside the block.
        size: Height and width of the images in pixels.
    """

    def check(connector: VisualTokens, args: tuple, tokens: TokenMap) -> None:
        guessed = connector.hw is None and args[0].dim() == 3
        if guessed and not is_grid_of(tokens.hw, size):
            hw = grid_like(tokens.tokens.shape[1], size)
            example = f', such as hw={hw}' if hw else ''
            raise ValueError(
                f'images of {size[0]}x{size[1]} pixels have no square grid '
                f'of {tokens.hw[0]}x{tokens.hw[1]} tokens, which VisualTokens '
                f'takes without hw; set hw of VisualTokens{example}'
            )

    handles = [
        module.register_forward_hook(check)
        for module in distiller.modules()
        if isinstance(module, VisualTokens)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def check_learner(algorithm: FrozenTeacherDistill) -> None:
    """Refuse an algorithm in which nothing is trained.

    Raises:
        ValueError: If neither the student nor the distiller learns.
    """
    learners = [algorithm.distiller]
    if algorithm.student_trainable:
        learners.append(algorithm.student)
    if any(p.requires_grad for m in learners for p in m.parameters()):
        return
    cause = 'student_trainable=False'
    if algorithm.student_trainable:
        cause = 'all parameters of the student are frozen'
    raise ValueError(
        f'nothing would be trained: {cause}, and no loss or connector of '
        'student records has parameters; connectors of teacher records alone '
        "stay as they are here, so train those, such as MMRazor's "
        "Paraphraser, with model.type='mmrazor.SingleTeacherDistill' and "
        "model.distiller.type='ConfigurableDistiller'"
    )
