# Copyright (c) The serkd_mm authors. All rights reserved.
"""Numbers of classes and kinds of labels that do not fit together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmpretrain.models.classifiers import (
    HuggingFaceClassifier,
    TimmClassifier,
)
from mmpretrain.models.heads import MultiLabelClsHead
from mmrazor.models.distillers import ConfigurableDistiller
from mmrazor.models.losses import (
    WSLD,
    AngleWiseRKD,
    DistanceWiseRKD,
    DISTLoss,
    DKDLoss,
    KDSoftCELoss,
    KLDivergence,
)
from mmrazor.models.task_modules import ModuleOutputsRecorder
from torch import nn

from ..losses import (
    HardDistillLoss,
    InstanceAngleLoss,
    InstanceDistanceLoss,
)

if TYPE_CHECKING:
    from .frozen_teacher_distill import FrozenTeacherDistill

# Losses that take logits for those of a softmax over classes.
_SOFTMAX_LOSSES = (
    KLDivergence,
    KDSoftCELoss,
    DISTLoss,
    DKDLoss,
    WSLD,
    HardDistillLoss,
)
# Losses between the images of each side, to which logits are any embedding.
_IMAGE_LOSSES = (
    AngleWiseRKD,
    DistanceWiseRKD,
    InstanceAngleLoss,
    InstanceDistanceLoss,
)


def check_classes(algorithm: FrozenTeacherDistill) -> None:
    """Refuse classes and labels that do not fit together.

    Raises:
        ValueError: If a loss compares logits of other classes or of several
            labels per image, or needs hard labels and gets soft ones, or soft
            labels have other classes than the student.
    """
    student, distiller = algorithm.student, algorithm.distiller
    preprocessor = algorithm.data_preprocessor
    for name in distiller.loss_forward_mappings:
        check_loss(name, distiller, student, algorithm.teacher, preprocessor)
    check_one_hot(preprocessor, student)


def check_loss(
    name: str,
    distiller: ConfigurableDistiller,
    student: nn.Module,
    teacher: nn.Module,
    preprocessor: Any,
) -> None:
    """Refuse one loss whose logits or labels it cannot compare.

    Args:
        name: Name of the loss in the distiller.
        distiller: The distiller.
        student: The student.
        teacher: The teacher.
        preprocessor: Preprocessor of the student's batch.

    Raises:
        ValueError: As :func:`check_classes`.
    """
    _check_compared_classes(name, distiller, student, teacher)
    _check_one_label(name, distiller, student, teacher)
    _check_hard_labels(name, distiller, preprocessor)


def class_count(network: nn.Module) -> int | None:
    """Classes that a network's head says it has."""
    name = _foreign_classifier(network)
    if name is not None:
        return getattr(network.get_submodule(name), 'out_features', None)
    return getattr(getattr(network, 'head', None), 'num_classes', None)


def _check_compared_classes(
    name: str,
    distiller: ConfigurableDistiller,
    student: nn.Module,
    teacher: nn.Module,
) -> None:
    """Refuse one loss that compares logits of other classes."""
    counts = [class_count(network) for network in (student, teacher)]
    if None in counts or counts[0] == counts[1]:
        return
    if isinstance(distiller.distill_losses[name], _IMAGE_LOSSES):
        return
    if len(_logit_sides(name, distiller, student, teacher)) == 2:
        raise ValueError(
            f'{name} compares logits, but the student has {counts[0]} '
            f'classes and the teacher {counts[1]}; take a teacher of the '
            f"student's classes, or leave {name} out"
        )


def _check_one_label(
    name: str,
    distiller: ConfigurableDistiller,
    student: nn.Module,
    teacher: nn.Module,
) -> None:
    """Refuse a softmax over logits that are each a yes or no."""
    loss = distiller.distill_losses[name]
    if not isinstance(loss, _SOFTMAX_LOSSES):
        return
    if not _logit_sides(name, distiller, student, teacher):
        return
    for side, network in (('student', student), ('teacher', teacher)):
        if _has_many_labels(network):
            head = network.head
            raise ValueError(
                f'{name} ({type(loss).__name__}) compares distributions over '
                f"classes, but the {side}'s {type(head).__name__} predicts "
                'labels of which an image can have several; compare its '
                "logits with MMRazor's L2Loss(normalize=False, "
                f'div_element=True), or leave {name} out'
            )


def compared_classes(
    algorithm: FrozenTeacherDistill,
) -> dict[bool, dict] | None:
    """Logits of both networks that one loss compares as they are.

    Returns:
        How they are mapped, the student's under True; None where there are
        none, or where an image can have several labels.
    """
    student, teacher = algorithm.student, algorithm.teacher
    distiller = algorithm.distiller
    if _has_many_labels(student) or _has_many_labels(teacher):
        return None
    for mapping in distiller.loss_forward_mappings.values():
        sides = {
            record['from_student']: record
            for record in mapping.values()
            if _is_logits(distiller, record, student, teacher)
        }
        if len(sides) == 2:
            return sides
    return None


def _logit_sides(
    name: str,
    distiller: ConfigurableDistiller,
    student: nn.Module,
    teacher: nn.Module,
) -> set[bool]:
    """Whose logits a loss gets: the student's if True, the teacher's."""
    return {
        record['from_student']
        for record in distiller.loss_forward_mappings[name].values()
        if _is_logits(distiller, record, student, teacher)
    }


def _has_many_labels(network: nn.Module) -> bool:
    return isinstance(getattr(network, 'head', None), MultiLabelClsHead)


def _foreign_classifier(network: nn.Module) -> str | None:
    """The linear layer in which a network of timm or HuggingFace ends."""
    if not isinstance(network, (TimmClassifier, HuggingFaceClassifier)):
        return None
    modules = network.named_modules()
    linear = [name for name, m in modules if isinstance(m, nn.Linear)]
    return linear[-1] if linear else None


def _is_logits(
    distiller: ConfigurableDistiller,
    record: dict,
    student: nn.Module,
    teacher: nn.Module,
) -> bool:
    """Whether a mapped argument is what a head says of its classes.

    What a connector makes of that is another thing.
    """
    if record.get('connector'):
        return False
    side, network = 'teacher', teacher
    if record['from_student']:
        side, network = 'student', student
    recorders = getattr(distiller, f'{side}_recorders').recorders
    recorder = recorders.get(record['recorder'])
    # The recorder of inputs, embeddings here, derives from this one.
    outputs = type(recorder) is ModuleOutputsRecorder
    if not outputs:
        return False
    foreign = _foreign_classifier(network)
    if foreign is not None:
        return recorder.source == foreign
    if not recorder.source.startswith('head'):
        return False
    # Heads can have other layers before the last one.
    widths = [
        module.out_features
        for module in network.get_submodule(recorder.source).modules()
        if isinstance(module, nn.Linear)
    ]
    return not widths or widths[-1] == (class_count(network) or widths[-1])


def check_one_hot(preprocessor: Any, student: nn.Module) -> None:
    """Refuse soft labels of other classes than the student's.

    Args:
        preprocessor: Preprocessor of the student's batch.
        student: A classifier; other networks are left alone.

    Raises:
        ValueError: If labels become scores of another number of classes.
    """
    wanted = class_count(student)
    made = getattr(preprocessor, 'num_classes', None)
    one_hot = getattr(preprocessor, 'to_onehot', False)
    if one_hot and None not in (wanted, made) and made != wanted:
        raise ValueError(
            f'data_preprocessor.num_classes is {made}, but the head of the '
            f'student has num_classes={wanted}; batch augmentations and '
            "to_onehot need both to be the data's"
        )


def _check_hard_labels(
    name: str, distiller: ConfigurableDistiller, preprocessor: Any
) -> None:
    """Refuse a loss of one class per image where labels are mixed.

    Its labels are those of the student's own loss, which are soft then.
    """
    loss = distiller.distill_losses[name]
    record = distiller.loss_forward_mappings[name].get('gt_labels')
    soft = getattr(preprocessor, 'to_onehot', False)
    if not (soft and isinstance(loss, (DKDLoss, WSLD)) and record):
        return
    recorders = distiller.student_recorders.recorders
    source = getattr(recorders.get(record['recorder']), 'source', '')
    if not (record['from_student'] and source.endswith('loss_module')):
        return  # labels of another place
    mixed = getattr(preprocessor, 'batch_augments', None)
    augments = [type(a).__name__ for a in getattr(mixed, 'augments', ()) if a]
    made, change = 'data_preprocessor.to_onehot=True', 'leave it out'
    if augments:
        made = f'architecture.train_cfg.augments ({", ".join(augments)})'
        change = 'set architecture.train_cfg=None'
    raise ValueError(
        f'{name} ({type(loss).__name__}) needs one class per image, but '
        f'{made} gives the student soft labels; {change}, or take a loss '
        'without labels such as KLDivergence'
    )
