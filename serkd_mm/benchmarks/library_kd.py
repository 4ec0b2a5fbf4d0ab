# Copyright (c) The serkd_mm authors. All rights reserved.
"""A step of plain KD through the libraries that offer it, and through ours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config
from mmrazor.models.algorithms import SingleTeacherDistill as Algorithm
from torch import Tensor, nn

from . import networks, step
from .libraries import CONFIG, HOST, OURS, TIMM, TORCHDISTILL, installed
from .measure import Run
from .report import Report, Table

ROUNDS = 15


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


def kd_table(report: Report) -> Table:
    """A step of each library, its teacher's mode and its first loss."""
    options, batch = report.options, step.batch_size(report.options)
    names = [HOST, *installed(TIMM, TORCHDISTILL), OURS]
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
    times = step.time_steps(steps, ours.cfg, options, ROUNDS)
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
