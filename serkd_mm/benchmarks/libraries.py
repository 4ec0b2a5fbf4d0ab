# Copyright (c) The serkd_mm authors. All rights reserved.
"""Plain KD and RKD through the libraries that offer them, and through ours.

timm and torchdistill are optional: what is not installed is left out, and a
note says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmrazor.models.algorithms import SingleTeacherDistill as Algorithm
from mmrazor.models.losses import AngleWiseRKD, DistanceWiseRKD
from torch import Tensor, nn

from ..models.losses import InstanceAngleLoss, InstanceDistanceLoss
from . import networks, step, straightforward
from .measure import (
    Run,
    interleaved,
    peak_memory,
    timing_cells,
)
from .relation import Loss, evaluate
from .report import Report, Table

HOST, TIMM, TORCHDISTILL, OURS = 'MMRazor', 'timm', 'torchdistill', 'serkd_mm'
# (images, student channels, teacher channels)
Shape = tuple[int, int, int]
RKD_SHAPES = [(128, 384, 768), (512, 384, 768)]
RKD_QUICK = [(8, 16, 24)]
# Of distances and angles; torchdistill's own example.
RKD_WEIGHTS = (1.0, 2.0)
CONFIG = 'serkd_deit-ti.py'
KD_ROUNDS, RKD_ROUNDS = 15, 7


def add_libraries(report: Report) -> None:
    """Add the tables of KD and RKD, and notes on how they were measured."""
    report.tables += [_kd_table(report), _rkd_table(report)]
    absent = [n for n in (TIMM, TORCHDISTILL) if not version(n)]
    report.notes += [
        'KD: cross-entropy on the class head and KL divergence on the '
        'distillation head of one DeiT-Ti, with the weights, batches and '
        f'preprocessing of the first table. {HOST}: SingleTeacherDistill; '
        f'{OURS}: FrozenTeacherDistill; {TIMM}: TokenDistillationTask in a '
        f'plain loop; {TORCHDISTILL}: DistillationBox with two forward hooks '
        'and its own AdamW. Teachers are handed over in training mode, as '
        'modules are built.',
        'RKD: distances and angles between the images of a batch, weights 1 '
        'and 2, of embeddings brought to unit length; forward and backward of '
        'the student side in float32. Errors are those against difference '
        'tensors in float64, of the gradient over its largest entry. '
        f'{TIMM} has no such loss.',
        f'Ratio of KD and RKD: time over {OURS} in the same round, median and '
        'quartiles.',
    ]
    found = [f'{n} {version(n)}' for n in (TIMM, TORCHDISTILL) if version(n)]
    if found:
        report.notes.append(f'Versions: {", ".join(found)}.')
    if absent:
        report.notes.append(
            f'Not installed and left out: {", ".join(absent)} (pip install '
            f'{" ".join(absent)}).'
        )


def version(library: str) -> str | None:
    """Version of an installed distribution, None without."""
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


@dataclass
class Training:
    """An algorithm's networks and the step that trains them."""

    model: Algorithm
    cfg: Config
    step: networks.Step


def build_training(variant: str, device: str, quick: bool) -> Training:
    """Plain KD through one of the libraries."""
    cfg = networks.load_config(CONFIG, quick)
    networks.keep_losses(cfg.model, ['loss_kd'])
    if variant != OURS:
        networks.through_host(cfg.model)
    model = networks.build_model(cfg, device)
    make_step = {TIMM: _timm_step, TORCHDISTILL: _torchdistill_step}.get(
        variant, networks.algorithm_step
    )
    return Training(model, cfg, make_step(model, cfg, device))


class _Student(nn.Module):
    """What both libraries ask of a student with a distillation token."""

    def __init__(self, classifier: Any) -> None:
        super().__init__()
        self.classifier: Any = classifier
        self.num_classes, self.in_chans = classifier.head.num_classes, 3
        # Of both networks: images come normalised.
        self.pretrained_cfg = dict(
            mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
        )

    def set_distilled_training(self, enable: bool) -> None:
        """timm's switch to two outputs, which are all there is here."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.classifier.extract_feat(images)
        return self.classifier.head.token_logits(features)


class _Teacher(nn.Module):
    def __init__(self, classifier: Any) -> None:
        super().__init__()
        self.classifier: Any = classifier

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier.head(self.classifier.extract_feat(images))


def _timm_step(model: Algorithm, cfg: Config, device: str) -> networks.Step:
    from timm.task import TokenDistillationTask

    loss, head = _kd_loss(cfg), cfg.model.architecture.head
    task = TokenDistillationTask(
        _Student(model.student),
        _Teacher(model.teacher),
        nn.CrossEntropyLoss(label_smoothing=head.loss.label_smooth_val),
        distill_type='soft',
        distill_loss_weight=loss.loss_weight,
        temperature=loss.tau,
        device=torch.device(device),
        verbose=False,
    )
    task.train()
    return networks.loop_step(
        model.student, lambda *batch: task(*batch)['loss'], cfg, device
    )


def _torchdistill_step(
    model: Algorithm, cfg: Config, device: str
) -> networks.Step:
    from torchdistill.core.distillation import get_distillation_box

    box = get_distillation_box(
        _Teacher(model.teacher), _Student(model.student),
        dataset_dict={}, train_config=_torchdistill_config(cfg),
        device=torch.device(device), device_ids=None, distributed=False,
        lr_factor=1,
    )  # fmt: skip
    box.pre_epoch_process(epoch=0)

    def step(batch: dict) -> Tensor:
        images, target = networks.prepare_batch(model.student, batch)
        with networks.autocast(device):
            loss = box.forward_process(images, target)
        box.post_forward_process(loss)
        return loss.detach()

    return step


def _torchdistill_config(cfg: Config) -> dict[str, Any]:
    loss, optim = _kd_loss(cfg), cfg.optim_wrapper
    smoothing = cfg.model.architecture.head.loss.label_smooth_val
    heads = 'classifier.head.layers.'
    forward = dict(forward_proc='forward_batch_only')
    labels = dict(
        criterion=dict(
            key='CrossEntropyLoss', kwargs=dict(label_smoothing=smoothing)
        ),
        criterion_wrapper=dict(
            key='SimpleLossWrapper',
            kwargs=dict(
                input=dict(
                    is_from_teacher=False,
                    module_path=f'{heads}head',
                    io='output',
                ),
                target=dict(uses_label=True),
            ),
        ),
        weight=1.0,
    )
    distillation = dict(
        criterion=dict(
            key='KDLoss',
            kwargs=dict(
                student_module_path=f'{heads}head_dist',
                student_module_io='output',
                teacher_module_path='.',
                teacher_module_io='output',
                temperature=loss.tau,
                alpha=0,
            ),
        ),
        weight=loss.loss_weight,
    )
    hooks = dict(output=[f'{heads}head', f'{heads}head_dist'])
    return dict(
        num_epochs=1,
        teacher=dict(forward, requires_grad=False),
        student=dict(forward, forward_hook=hooks),
        optimizer=dict(
            key='AdamW',
            kwargs=dict(
                lr=optim.optimizer.lr,
                weight_decay=optim.optimizer.weight_decay,
                eps=optim.optimizer.eps,
                betas=optim.optimizer.betas,
            ),
            max_grad_norm=optim.clip_grad.max_norm,
        ),
        criterion=dict(
            key='WeightedSumLoss',
            kwargs=dict(sub_terms=dict(labels=labels, kd=distillation)),
        ),
    )


def _kd_loss(cfg: Config) -> Any:
    return cfg.model.distiller.distill_losses.loss_kd


def prepare_kd(variant: str, device: str, quick: bool, batch: int) -> Run:
    """Two steps, for memory."""
    training = build_training(variant, device, quick)
    return step.two_steps(training.step, training.cfg, batch)


def _kd_table(report: Report) -> Table:
    options, batch = report.options, step.batch_size(report.options)
    names = [HOST, *_installed(TIMM, TORCHDISTILL), OURS]
    common: dict[str, Any] = dict(device=options.device, quick=options.quick)
    memory = step.memory_of_steps(prepare_kd, names, common, options)
    trainings = {name: build_training(name, **common) for name in names}
    ours = trainings[OURS]
    for training in trainings.values():
        networks.share_weights(ours.model, training.model)
    first = {
        name: t.step(networks.random_batch(ours.cfg, batch, 0)).item()
        for name, t in trainings.items()
    }
    steps = {name: training.step for name, training in trainings.items()}
    times = step.time_steps(steps, ours.cfg, options, KD_ROUNDS)
    report.data['KD ms'] = times
    rows = []
    for name in names:
        teacher = trainings[name].model.teacher
        rows.append({
            **step.step_row(
                'DeiT-Ti, KD', name, times, OURS, memory[name], batch
            ),
            'teacher module in train mode': teacher.training,
            'loss of the first step': first[name],
        })  # fmt: skip
    return Table('Plain KD, DeiT-Ti student', rows)


def rkd_loss(variant: str) -> Loss:
    """RKD of a library: ``(B, Cs)`` and ``(B, Ct)`` to the weighted sum.

    Embeddings are brought to unit length first, which torchdistill leaves to
    its user.
    """
    distance, angle = RKD_WEIGHTS
    if variant == TORCHDISTILL:
        from torchdistill.losses.mid_level import RKDLoss

        loss = RKDLoss('.', '.', distance, angle, 'mean')
        return lambda student, teacher: loss(
            {'.': dict(output=F.normalize(student))},
            {'.': dict(output=F.normalize(teacher))},
        )
    types = {
        OURS: (InstanceDistanceLoss, InstanceAngleLoss),
        HOST: (DistanceWiseRKD, AngleWiseRKD),
    }[variant]
    losses = [make(loss_weight=w) for make, w in zip(types, RKD_WEIGHTS)]
    return lambda student, teacher: sum(
        (loss(student, teacher) for loss in losses), student.new_zeros(())
    )


def exact_rkd(student: Tensor, teacher: Tensor) -> Tensor:
    """The same from difference tensors."""
    sides = [F.normalize(side).unsqueeze(0) for side in (student, teacher)]
    distance, angle = RKD_WEIGHTS
    return distance * straightforward.distance_loss(
        *sides
    ) + angle * straightforward.angle_loss(*sides)


def prepare_rkd(variant: str, shape: Shape, device: str) -> Run:
    """One forward and backward over embeddings."""
    loss = rkd_loss(variant)
    student, teacher = _embeddings(shape, device)
    student.requires_grad_()

    def forward_backward() -> None:
        student.grad = None
        loss(student, teacher).backward()

    return forward_backward


def _embeddings(shape: Shape, device: str) -> list[Tensor]:
    """Student and teacher side, on any device the same."""
    generator = torch.Generator().manual_seed(0)
    num, *widths = shape
    return [
        torch.randn(num, c, generator=generator).to(device) for c in widths
    ]


def _rkd_table(report: Report) -> Table:
    options = report.options
    names = [HOST, *_installed(TORCHDISTILL), OURS]
    rows = []
    for shape in RKD_QUICK if options.quick else RKD_SHAPES:
        common: dict[str, Any] = dict(shape=shape, device=options.device)
        runs = {n: prepare_rkd(n, **common) for n in names}
        times = interleaved(runs, options.rounds(RKD_ROUNDS), options)
        runs.clear()
        report.data[f'RKD {shape} ms'] = times
        embeddings = _embeddings(shape, options.device)
        value, grad = evaluate(exact_rkd, [e.double() for e in embeddings])
        for name in names:
            memory = peak_memory(
                prepare_rkd,
                dict(common, variant=name),
                options,
                warm=dict(shape=(4, *shape[1:])),
            )
            found, slope = evaluate(rkd_loss(name), embeddings)
            rows.append({
                '(B, Cs, Ct)': str(shape),
                'variant': name,
                **timing_cells(times, name, name, OURS),
                'extra MiB': memory.extra,
                'error of value': float((found / value - 1).abs()),
                'error of gradient': float(
                    (slope - grad).abs().max() / grad.abs().max()
                ),
            })  # fmt: skip
    return Table('RKD between images, forward + backward', rows)


def _installed(*names: str) -> list[str]:
    return [name for name in names if version(name)]
