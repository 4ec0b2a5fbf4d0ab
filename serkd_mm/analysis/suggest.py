# Copyright (c) The serkd_mm authors. All rights reserved.
"""Choose what a pair of networks can be compared by."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import Any

from mmengine.model import BaseModel
from mmpretrain.models.heads import DeiTClsHead, MultiLabelClsHead

from .choose import by, cell_of, choose_tokens, grid_notes
from .images import input_size
from .student import IMAGENET_CLASSES, student_changes
from .trace import NetworkTrace, SizeError, TokenSource, trace_network
from .zoo import ZooNetwork, find_network

# Data and schedule of a student whose config has none.
IMAGENET = (
    'serkd_mm::_base_/datasets/imagenet_bs128_224.py',
    'serkd_mm::_base_/schedules/deit_bs1024.py',
    'serkd_mm::_base_/default_runtime.py',
)
IMAGENET_SIZE = (224, 224)
_NO_DATA = (
    "{}'s config has no data and no schedule: those of the package's DeiT "
    'configs on ImageNet-1k take their place.'
)


@dataclass(frozen=True)
class Suggestion:
    """What a config for a pair has to say.

    Attributes:
        student: The student.
        teacher: The teacher.
        size: Height and width of the images, in pixels.
        student_tokens: Where the student's tokens are.
        teacher_tokens: Where the teacher's are.
        hw: Grid on which the tokens are compared.
        student_logits: Module with the logits to compare; None to leave
            logits out.
        teacher_logits: The same of the teacher.
        own_data: Whether data and schedule are those of the student's config.
        changes: Entries of the student's model that have to be different,
            by name.
        notes: What a reader should know, a sentence each.
    """

    student: ZooNetwork
    teacher: ZooNetwork
    size: tuple[int, int]
    student_tokens: TokenSource
    teacher_tokens: TokenSource
    hw: tuple[int, int]
    student_logits: str | None
    teacher_logits: str | None
    own_data: bool
    changes: dict[str, Any]
    notes: tuple[str, ...]

    @property
    def cell(self) -> int:
        """Height and width of a superpixel's starting cell, in tokens."""
        return cell_of(self.hw)


def suggest(
    teacher: str, student: str, size: tuple[int, int] | None = None
) -> Suggestion:
    """Find sources, prefix tokens, widths and grids of a pair by running it.

    Args:
        teacher: Name in MMPretrain's model zoo, or a config.
        student: The same. Its config gives data and schedule.
        size: Height and width of the images. None takes what the student's
            training pipeline puts out.

    Raises:
        FileNotFoundError: If a config does not exist.
        ValueError: If the pair cannot be distilled, saying why, or ``size``
            is not what the student's training pipeline puts out.
    """
    networks = dict(
        teacher=find_network(teacher), student=find_network(student)
    )
    own_data = _has_data(networks['student'])
    size, told = _images(networks['student'], size, own_data)
    built = {side: _build(net, side) for side, net in networks.items()}
    traces = {
        side: _trace(built[side], networks[side], side, size, told)
        for side in networks
    }
    tokens, hw = choose_tokens(traces['student'], traces['teacher'])
    no_kd = _no_kd(built, traces)
    changes, changed = student_changes(
        networks['student'],
        built['student'],
        traces['student'],
        distilled=no_kd is None,
    )
    student_logits = _student_logits(built['student'], traces['student'])
    return Suggestion(
        **networks,
        size=size,
        student_tokens=tokens[0],
        teacher_tokens=tokens[1],
        hw=hw,
        student_logits=None if no_kd else student_logits,
        teacher_logits=None if no_kd else traces['teacher'].logits,
        own_data=own_data,
        changes=changes,
        notes=(
            *([no_kd] if no_kd else []),
            *grid_notes(tokens, hw),
            *changed,
            *_teacher_notes(networks['teacher'], size),
            *([] if own_data else [_NO_DATA.format(student)]),
        ),
    )


def _images(
    student: ZooNetwork, size: tuple[int, int] | None, own_data: bool
) -> tuple[tuple[int, int], bool]:
    """Size of the images to train on, and whether a pipeline tells it."""
    if not own_data:
        return size or IMAGENET_SIZE, False
    try:
        own = input_size(student.cfg)
    except ValueError:
        if size is None:
            raise
        return size, False
    if size is not None and size != own:
        raise ValueError(
            f'the training pipeline of {student.name} puts out {by(own)} '
            f'pixels, not the {by(size)} of --size; leave --size out, or '
            'change the pipeline in a config of your own and name that'
        )
    return own, True


def _has_data(network: ZooNetwork) -> bool:
    names = ('train_dataloader', 'optim_wrapper', 'train_cfg')
    return all(network.cfg.get(name) for name in names)


def _build(network: ZooNetwork, side: str) -> BaseModel:
    try:
        return network.build()
    except Exception as error:
        raise ValueError(
            f'the {side} {network.name} does not build '
            f'({type(error).__name__}: {_said(error)})'
        ) from error


def _said(error: Exception) -> str:
    """Message of an error, the line that raised it where that has none."""
    frames = traceback.extract_tb(error.__traceback__)
    return str(error) or f'{frames[-1].line} in {frames[-1].name}()'


def _trace(
    model: BaseModel,
    network: ZooNetwork,
    side: str,
    size: tuple[int, int],
    told: bool,
) -> NetworkTrace:
    try:
        return trace_network(model, size)
    except SizeError as error:
        cure = 'give --size'
        if told:
            cure = (
                'name a config of the student whose training pipeline puts '
                'out another'
            )
        hint = f'; its training images have this size: {cure}'
        if side == 'teacher':
            hint = (
                f"; the {by(size)} pixels are the student's, whose batch the "
                'teacher sees: choose networks of one input size, or '
                f'{cure}'
            )
        raise ValueError(f'{side} {network.name}: {error}{hint}') from error
    except ValueError as error:
        raise ValueError(f'{side} {network.name}: {error}') from error


def _student_logits(model: BaseModel, trace: NetworkTrace) -> str | None:
    """Module with the logits that the teacher is to train."""
    if isinstance(getattr(model, 'head', None), DeiTClsHead):
        return 'head.layers.head_dist'
    # That of a head that is added.
    return trace.logits or 'head.fc'


def _no_kd(
    built: dict[str, BaseModel], traces: dict[str, NetworkTrace]
) -> str | None:
    """Why the logits are not compared, None if they are."""
    for side in ('teacher', 'student'):
        head = getattr(built[side], 'head', None)
        name = type(head).__name__
        if isinstance(head, MultiLabelClsHead):
            return (
                f"No loss_kd: the {side}'s {name} predicts labels of which "
                'an image can have several, and its logits are no '
                'distribution over classes.'
            )
        if head is not None and traces[side].outputs > 1:
            return (
                f"No loss_kd: the {side}'s {name} puts out "
                f'{traces[side].outputs} tensors, none of which is its '
                'prediction.'
            )
        if head is not None and traces[side].num_classes is None:
            return (
                f"No loss_kd: the {side}'s {name} puts out no logits "
                '(B, classes); heads of MMPretrain take the last item of what '
                'the backbone returns, so it has to return a tuple that ends '
                'in what the head reads.'
            )
    theirs = traces['teacher'].num_classes
    if theirs is None:
        return (
            'No loss_kd: the teacher has no classification head, so there '
            'are no logits to learn from.'
        )
    classes = traces['student'].num_classes or IMAGENET_CLASSES
    if classes != theirs:
        return (
            f'No loss_kd: the student has {classes} classes, the teacher '
            f'{theirs}.'
        )
    return None


def _teacher_notes(teacher: ZooNetwork, size: tuple[int, int]) -> list[str]:
    notes = []
    if teacher.checkpoint is None:
        notes.append(
            f'No weights of {teacher.name} are known: write the path of yours '
            'into model.teacher_ckpt.'
        )
    try:
        own = input_size(teacher.cfg)
    except ValueError:
        return notes
    if own != size:
        notes.append(
            f"The teacher's config is for {by(own)} pixels; here it sees "
            f'{by(size)}.'
        )
    return notes
