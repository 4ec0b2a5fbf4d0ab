# Copyright (c) The serkd_mm authors. All rights reserved.
"""All losses once, before anything is read or trained."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from mmpretrain.models.classifiers import BaseClassifier
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from ...functional.superpixel import size_pair
from ...near_names import asserted
from ...ops import without_kernels
from ..connectors import TokenMap, VisualTokens
from ..connectors.token_map import grid_like, is_grid_of
from ..heads.check_head import head_widths_named
from ..modes import buffers_kept, evaluating

if TYPE_CHECKING:
    from .frozen_teacher_distill import FrozenTeacherDistill

# As few as a loss over the images of a batch can be computed of.
IMAGES = 2


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
        ValueError: If something does not fit, the tokens of images that are
            no squares would be taken for a square grid, or ``input_size`` is
            no size.
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
    size = size_pair(input_size, 'model.input_size')
    images = _made_up_images(algorithm.student, size, device, dtype)
    samples = _made_up_samples(algorithm.data_preprocessor, device)
    with _nothing_left_behind(algorithm, device), _explained(algorithm, size):
        algorithm.loss(images, samples)


def _made_up_images(
    student: nn.Module,
    size: tuple[int, int],
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """Other values everywhere, for losses of positions or of images."""
    convolutions = (m for m in student.modules() if isinstance(m, nn.Conv2d))
    channels = next((m.in_channels for m in convolutions), 3)
    shape = (IMAGES, channels, *size)
    pixels = torch.linspace(
        -1, 1, math.prod(shape), device=device, dtype=dtype
    )
    return pixels.reshape(shape)


def _made_up_samples(
    preprocessor: nn.Module, device: torch.device
) -> list[DataSample]:
    """Labels, and scores where images are mixed."""
    samples = [DataSample().set_gt_label(0) for _ in range(IMAGES)]
    classes = getattr(preprocessor, 'num_classes', None)
    if not (classes and preprocessor.to_onehot):
        return samples
    score = torch.zeros(classes, device=device)
    score[0] = 1.0
    return [sample.set_gt_score(score) for sample in samples]


@contextlib.contextmanager
def _nothing_left_behind(
    algorithm: FrozenTeacherDistill, device: torch.device
) -> Iterator[None]:
    """Inside, a forward changes neither modes nor buffers nor randomness."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(evaluating(algorithm))
        stack.enter_context(buffers_kept(algorithm))
        if device.type != 'cuda' and torch.cuda.is_available():
            # The runner has yet to move the algorithm. Without a CUDA device
            # kernels stay, and say so.
            stack.enter_context(without_kernels())
        # Connectors and losses of others may draw some.
        accelerators = [device] if device.type == 'cuda' else []
        stack.enter_context(torch.random.fork_rng(accelerators))
        yield


@contextlib.contextmanager
def _explained(
    algorithm: FrozenTeacherDistill, size: tuple[int, int]
) -> Iterator[None]:
    """Inside, what does not fit is an error that says what to change."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(grids_checked(algorithm.distiller, size))
        for name in ('architecture', 'teacher'):
            network = getattr(algorithm, name)
            stack.enter_context(head_widths_named(f'model.{name}', network))
        try:
            yield
        except (AssertionError, AttributeError, KeyError) as error:
            said = asserted(error) or str((*error.args, '')[0])
            asserts = isinstance(error, AssertionError)
            if not asserts and DataSample.__name__ not in said:
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
