# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dist import is_distributed
from mmengine.logging import print_log
from mmengine.model import BaseModel
from mmrazor.models.algorithms import SingleTeacherDistill
from mmrazor.models.distillers import OFDDistiller
from mmrazor.models.utils import add_prefix
from mmrazor.registry import MODELS
from torch import Tensor

from ... import compat
from ..distillers import SeRKDDistiller
from ..from_config import student_network
from ..heads import DeiTDistillHead
from .checks import check_algorithm, check_arguments, check_preprocessor
from .class_checks import compared_classes
from .dry_run import dry_run
from .renormalize import find_renormalization
from .shard import shard_teacher
from .teacher import (
    build_teacher,
    check_teacher_source,
    load_teacher_weights,
)


@MODELS.register_module()
class FrozenTeacherDistill(SingleTeacherDistill):
    """Distillation from a teacher that is a fixed function.

    Differs from :class:`mmrazor.SingleTeacherDistill` in what "frozen" means.
    The teacher

    - is in eval mode and without gradient whatever mode the algorithm is in,
      and runs its tensor forward, never its own loss;
    - is no submodule: it is absent from ``state_dict``, ``parameters``, the
      optimizer, the gradient reduction of distributed training and copies
      made for averaged models (which share it), and still follows
      ``.to()``, ``.cuda()`` and the like of the original;
    - sees the student's augmented batch, normalised with the teacher's own
      mean, std and channel order where its ``data_preprocessor`` has a
      normalisation that differs from the student's;
    - has the weights of ``teacher_ckpt``, each of them, or training does not
      start.

    A ``data_preprocessor`` given to the algorithm (MMEngine passes a config's
    top-level one) is handed to the student, so that the student's
    ``train_cfg.augments`` stay in force; the student's own one wins.

    Args:
        architecture: Student, a config or a built model.
        distiller: Config of the distiller.
        teacher: Teacher, a model config, ``dict(cfg_path=...)`` naming the
            config that the teacher was trained with (a file, or
            ``package::config.py``), or a built model other than the student.
        teacher_ckpt: Path or URL of the teacher's checkpoint. Keys and shapes
            must match exactly; ``num_batches_tracked`` may be missing.
        teacher_revise_keys: Pairs of a pattern and its replacement for the
            keys of a checkpoint that another library wrote.
        allow_random_teacher: Whether to accept a teacher as it was built when
            ``teacher_ckpt`` is None. Meant for tests and dry runs.
        teacher_compile: Whether to run the teacher through
            :func:`torch.compile`; a dict holds its options.
        teacher_shard: For a teacher that fits no device: names of the modules
            that hold its layers, as ``['backbone.layers']``. The processes of
            a job divide each layer and gather it where it runs.
        channels_last: Whether 2-D convolutions of teacher, student and
            distiller keep their weights, and with them their maps, channels
            last. It changes no value beyond rounding; convolutions in half
            precision are faster so on most devices. A teacher that is divided
            (``teacher_shard``) keeps its layout, as PyTorch divides no other.
        input_size: Height and width of the student's images. On two made-up
            images of this size all losses are computed once when the
            algorithm is built, so that what does not fit together shows
            before anything is read or trained. None takes the ``img_size``
            of a transformer; ``tools/train.py`` puts there what the training
            pipeline puts out. 0 leaves this out.
        data_preprocessor: Config or module of the batch preprocessing.
        kwargs: Further arguments of :class:`mmrazor.SingleTeacherDistill`.

    Raises:
        FileNotFoundError: If ``teacher_ckpt`` or ``teacher.cfg_path`` names a
            file that is not there.
        TypeError: If a setting or the weight of a loss has a wrong type, a
            setting belongs to the student, or a head reads other tokens than
            its backbone puts out.
        ValueError: If the teacher has no checkpoint, the checkpoint does not
            fit, teacher and student are one object or have other classes and
            their logits are compared, a loss of hard labels gets soft ones,
            a loss has a negative weight, or the teacher is asked to be
            trainable, or to be divided and compiled.
    """

    teacher: BaseModel

    def __init__(
        self,
        architecture: BaseModel | dict,
        distiller: dict,
        teacher: BaseModel | dict,
        teacher_ckpt: str | None = None,
        teacher_revise_keys: Sequence[tuple[str, str]] = (),
        allow_random_teacher: bool = False,
        teacher_compile: bool | dict = False,
        teacher_shard: Sequence[str] = (),
        channels_last: bool = False,
        input_size: int | tuple[int, int] | None = None,
        data_preprocessor: dict | torch.nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        check_arguments(
            architecture=architecture,
            distiller=distiller,
            teacher=teacher,
            teacher_compile=teacher_compile,
            teacher_shard=teacher_shard,
            others=kwargs,
        )
        check_teacher_source(teacher_ckpt, allow_random_teacher)
        self._owns_teacher = True
        self.teacher_ckpt = teacher_ckpt
        if isinstance(architecture, dict):
            architecture = student_network(architecture, data_preprocessor)
            check_preprocessor(architecture)
            data_preprocessor = None
        if getattr(architecture, 'data_preprocessor', None) is not None:
            # A built student has its own.
            data_preprocessor = None
        super().__init__(
            distiller=distiller,
            teacher=build_teacher(teacher, teacher_ckpt),
            architecture=architecture,
            data_preprocessor=data_preprocessor,
            **kwargs,
        )
        if not self.module_inplace:
            compat.disable_inplace(self.student)
        if not self.teacher_module_inplace:
            compat.disable_inplace(self.teacher)
        self._load_teacher(teacher_revise_keys)
        if channels_last:
            keep_channels_last(self)  # which the teacher is no part of
            if not teacher_shard:
                keep_channels_last(self.teacher)
        self.renormalize = find_renormalization(
            self.data_preprocessor,
            getattr(self.teacher, 'data_preprocessor', None),
        )
        self._register_load_state_dict_pre_hook(_drop_teacher_keys)
        check_algorithm(self)
        self._compared = compared_classes(self)
        dry_run(self, input_size)
        if teacher_compile is not False:
            options = {} if teacher_compile is True else teacher_compile
            compat.compile_module(self.teacher, **options)
        if teacher_shard:
            shard_teacher(self.teacher, teacher_shard)

    def _load_teacher(self, revise_keys: Sequence[tuple[str, str]]) -> None:
        """Give the teacher its weights, and what is made of them."""
        if self.teacher_ckpt is None:
            print_log(
                'The teacher has RANDOM weights (allow_random_teacher=True).',
                logger='current',
                level=logging.WARNING,
            )
        else:
            load_teacher_weights(self.teacher, self.teacher_ckpt, revise_keys)
        self.teacher.eval()
        if isinstance(self.distiller, OFDDistiller):
            # Its margins are of the teacher's batch norms.
            self.distiller.init_ofd_connectors(self.teacher)

    def loss(
        self, batch_inputs: Tensor, data_samples: list | None = None
    ) -> dict[str, Tensor]:
        """Student and distillation losses of a batch.

        Args:
            batch_inputs: Augmented batch, normalised for the student,
                ``(B, 3, H, W)``.
            data_samples: Labels of the batch.

        Returns:
            The student's losses under ``student.`` and the distiller's under
            ``distill.``, scalars; where logits are compared, also
            ``agreement``, the share of images that both networks give the
            same class, which no gradient and no sum of losses contains.
        """
        distiller = self.distiller
        if self.distillation_stopped:
            losses = self.student(batch_inputs, data_samples, mode='loss')
            return add_prefix(self._with_distiller(losses), 'student')

        # A delivery records from the teacher and overrides in the student.
        distiller.set_deliveries_override(False)
        recorders = distiller.teacher_recorders
        deliveries = distiller.deliveries
        with torch.no_grad(), recorders, deliveries:
            self.teacher(self.teacher_inputs(batch_inputs), data_samples)

        distiller.set_deliveries_override(True)
        recorders = distiller.student_recorders
        grad = torch.is_grad_enabled() and self.student_trainable
        distiller.student_learns = grad
        try:
            with torch.set_grad_enabled(grad), recorders, deliveries:
                labelled = self.student(
                    batch_inputs, data_samples, mode='loss'
                )
        finally:
            distiller.student_learns = False

        losses = {}
        if self.calculate_student_loss:
            losses.update(add_prefix(labelled, 'student'))
        agreement = self._agreement()
        distilled = distiller.compute_distill_losses()
        losses.update(add_prefix(distilled, 'distill'))
        return {**losses, **agreement}

    def _with_distiller(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Give what the distiller has learned gradients of 0.

        The processes of a job wait for a gradient of every parameter.
        """
        learned = [p for p in self.distiller.parameters() if p.requires_grad]
        if not (learned and is_distributed()):
            return losses
        # Of no entry, so that one that is not finite spoils nothing.
        nothing = sum(p.flatten()[:0].sum() for p in learned)
        name, loss = next(
            (name, loss)
            for name, loss in losses.items()
            if 'loss' in name and isinstance(loss, Tensor)
        )
        return {**losses, name: loss + nothing}

    @torch.no_grad()
    def _agreement(self) -> dict[str, Tensor]:
        """Share of the batch with one answer; records are still there."""
        if self._compared is None:
            return {}
        one, other = (
            self.distiller.get_record(**record)
            for record in self._compared.values()
        )
        if one.shape != other.shape:
            return {}
        agree = one.argmax(dim=-1) == other.argmax(dim=-1)
        return {'agreement': agree.float().mean()}

    @property
    def distillation_stopped(self) -> bool:
        """Whether the labels alone train, set by MMRazor's StopDistillHook.

        They then train a :class:`DeiTDistillHead`'s second head too, which
        counts half in every prediction and has no teacher any more.
        """
        return self._distillation_stopped

    @distillation_stopped.setter
    def distillation_stopped(self, stopped: bool) -> None:
        self._distillation_stopped = stopped
        head = getattr(self.student, 'head', None)
        if isinstance(head, DeiTDistillHead):
            head.distillation_stopped = stopped

    def get_layer_depth(self, param_name: str) -> tuple[int, int]:
        """Depth of a parameter, for layer-wise decay of the learning rate.

        Those of the distiller count as the student's last layer.
        """
        return self.student.get_layer_depth(
            param_name.removeprefix('architecture.')
        )

    def teacher_inputs(self, batch_inputs: Tensor) -> Tensor:
        """The student's batch in the teacher's normalisation."""
        if self.renormalize is None:
            return batch_inputs
        return self.renormalize(batch_inputs)

    def train(self, mode: bool = True) -> FrozenTeacherDistill:
        """Set the mode of student and distiller; the teacher stays in eval."""
        super().train(mode)
        self.teacher.eval()
        if isinstance(self.distiller, SeRKDDistiller):
            self.distiller.attach_again(self.student)
        return self

    def __setattr__(self, name: str, value: Any) -> None:
        # Plain attribute instead of submodule, see the class docstring.
        if name == 'teacher':
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def _apply(self, *args: Any, **kwargs: Any) -> FrozenTeacherDistill:
        super()._apply(*args, **kwargs)
        if self._owns_teacher:
            self.teacher._apply(*args, **kwargs)
            # LeViT, TinyViT and EfficientFormer keep tensors for this mode
            # that move with nothing else.
            self.teacher.eval()
        return self

    def __deepcopy__(self, memo: dict) -> FrozenTeacherDistill:
        # The teacher's hooks feed its recorders, so both are shared.
        recorders = self.distiller.teacher_recorders
        for shared in (self.teacher, recorders):
            memo[id(shared)] = shared
        duplicate = self.__class__.__new__(self.__class__)
        memo[id(self)] = duplicate
        duplicate.__dict__.update(copy.deepcopy(self.__dict__, memo))
        # An averaged copy on another device leaves the teacher where it is.
        duplicate._owns_teacher = False
        return duplicate


def keep_channels_last(module: torch.nn.Module) -> None:
    """Lay out the weights of 2-D convolutions channels last, in place."""
    kinds = (torch.nn.Conv2d, torch.nn.ConvTranspose2d)
    for part in module.modules():
        if isinstance(part, kinds):
            weight = part.weight
            weight.data = weight.contiguous(memory_format=torch.channels_last)


def _drop_teacher_keys(state_dict: dict, prefix: str, *_: Any) -> None:
    """Accept checkpoints of algorithms that save their teacher."""
    for key in [k for k in state_dict if k.startswith(f'{prefix}teacher.')]:
        del state_dict[key]
