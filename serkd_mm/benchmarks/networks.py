# Copyright (c) The serkd_mm authors. All rights reserved.
"""The networks of the training steps, from the project's own configs."""

from __future__ import annotations

import copy
from typing import Any, Callable

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import DefaultScope
from mmpretrain.structures import DataSample
from mmrazor.models.algorithms import SingleTeacherDistill as Algorithm
from mmrazor.registry import MODELS
from torch import Tensor, nn

from ..engine.optimizers import Bfloat16OptimWrapper
from ..paths import own_config_path

# One training step on a batch of a data loader; returns the total loss.
Step = Callable[[dict], Tensor]
# The total loss of normalised images and their soft labels.
Loss = Callable[[Tensor, Tensor], Tensor]


def autocast(device: str) -> Any:
    """Bfloat16 on CUDA, float32 on CPUs, as the benchmark trains."""
    return torch.autocast(
        'cuda', dtype=torch.bfloat16, enabled=device == 'cuda'
    )


def load_config(name: str, quick: bool) -> Config:
    """A config with a random teacher.

    Args:
        name: File name of a config.
        quick: Shrink both networks to 32 pixels and a few channels.
    """
    cfg = Config.fromfile(own_config_path(f'serkd_mm::{name}'))
    model = cfg.model
    model.teacher_ckpt, model.allow_random_teacher = None, True
    model.architecture.data_preprocessor = cfg.data_preprocessor
    if quick:
        _shrink(model)
    return cfg


def _shrink(model: Any) -> None:
    width, depth = (16, 32), (2, 12)
    teacher = get_config(model.teacher.cfg_path)
    teacher.model.data_preprocessor = teacher.data_preprocessor
    teacher.model['_scope_'] = 'mmpretrain'
    model.teacher = teacher.model
    for network, c, layers in zip(
        (model.architecture, model.teacher), width, depth
    ):
        network.backbone.update(img_size=32, patch_size=8)
        network.backbone.arch = dict(
            embed_dims=c,
            num_layers=layers,
            num_heads=2,
            feedforward_channels=2 * c,
        )
        network.head.in_channels = c
    model.distiller.distill_losses.loss_feature.update(
        student_channels=width[0], teacher_channels=width[1]
    )


def keep_losses(model: Any, names: list[str]) -> None:
    """Leave only some of the distillation losses in a model config."""
    distiller = model.distiller
    for key in ('distill_losses', 'loss_forward_mappings'):
        distiller[key] = {n: distiller[key][n] for n in names}
    used = {
        record.get('connector')
        for mapping in distiller.loss_forward_mappings.values()
        for record in mapping.values()
    }
    distiller.connectors = {
        n: c for n, c in distiller.connectors.items() if n in used
    }


def through_host(model: Any) -> None:
    """Turn a model config into one of MMRazor's own algorithm."""
    model.type = 'SingleTeacherDistill'
    del model['allow_random_teacher']
    model.distiller.type = 'ConfigurableDistiller'


def random_batch(cfg: Config, size: int, seed: int) -> dict:
    """A batch as the data loader hands it over; seeds what follows too."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    pixels = cfg.model.architecture.backbone.img_size
    classes = cfg.model.architecture.head.num_classes
    inputs = torch.randint(
        0, 256, (size, 3, pixels, pixels), dtype=torch.uint8
    )
    if torch.cuda.is_available():  # as the loaders of the configs do
        inputs = inputs.pin_memory()
    return dict(
        inputs=inputs,
        data_samples=[
            DataSample().set_gt_label(int(label))
            for label in torch.randint(classes, (size,))
        ],
    )


def build_model(cfg: Config, device: str) -> Algorithm:
    """The algorithm of a config, in training mode.

    Networks keep the weights that their constructors draw: initialisation
    changes neither time nor memory.
    """
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(copy.deepcopy(cfg.model)).to(device)
    model.train()
    return model


def share_weights(source: Algorithm, target: Algorithm) -> None:
    """Give an algorithm the weights of another's networks and losses."""
    for name in ('student', 'teacher', 'distiller'):
        weights = getattr(source, name).state_dict()
        getattr(target, name).load_state_dict(weights)


def algorithm_step(model: Algorithm, cfg: Config, device: str) -> Step:
    """MMEngine's ``train_step`` with the optimizer of the config."""
    settings = copy.deepcopy(cfg.optim_wrapper)
    settings.type = Bfloat16OptimWrapper if device == 'cuda' else OptimWrapper
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        wrapper = build_optim_wrapper(model, settings)

    def step(batch: dict) -> Tensor:
        return model.train_step(batch, wrapper)['loss'].detach()

    return step


def hand_written_step(model: Algorithm, cfg: Config, device: str) -> Step:
    """Plain KD between the two networks of an algorithm, without it."""
    student, teacher = model.student, model.teacher
    smoothing = cfg.model.architecture.head.loss.label_smooth_val

    def compute_loss(images: Tensor, target: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = teacher.head(teacher.extract_feat(images))
        features = student.extract_feat(images)
        class_logits, logits = student.head.token_logits(features)
        loss = F.cross_entropy(class_logits, target, label_smoothing=smoothing)
        return loss + F.kl_div(
            logits.log_softmax(1), wanted.softmax(1), reduction='batchmean'
        )

    return loop_step(student, compute_loss, cfg, device)


def loop_step(
    student: nn.Module, compute_loss: Loss, cfg: Config, device: str
) -> Step:
    """A plain PyTorch loop around a loss of images and soft labels.

    Args:
        student: The classifier that is trained.
        compute_loss: Runs both networks.
        cfg: Config with the optimizer.
        device: ``'cpu'`` or ``'cuda'``.
    """
    optimizer = _adamw(student, cfg.optim_wrapper)
    max_norm = cfg.optim_wrapper.clip_grad.max_norm

    def step(batch: dict) -> Tensor:
        images, target = prepare_batch(student, batch)
        with autocast(device):
            loss = compute_loss(images, target)
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), max_norm)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


def prepare_batch(student: Any, batch: dict) -> tuple[Tensor, Tensor]:
    """Mixed, normalised images and soft labels, by a student's own."""
    data = student.data_preprocessor(batch, training=True)
    labels = [sample.gt_score for sample in data['data_samples']]
    return data['inputs'], torch.stack(labels)


def _adamw(student: nn.Module, settings: Any) -> torch.optim.AdamW:
    """AdamW without weight decay of vectors and of extra tokens."""
    groups: dict[bool, list] = {True: [], False: []}
    for name, parameter in student.named_parameters():
        token = name.endswith(('_token', 'pos_embed'))
        groups[parameter.dim() > 1 and not token].append(parameter)
    chosen = settings.optimizer
    return torch.optim.AdamW(
        [
            dict(params=groups[True], weight_decay=chosen.weight_decay),
            dict(params=groups[False], weight_decay=0.0),
        ],
        lr=chosen.lr,
        eps=chosen.eps,
        betas=chosen.betas,
    )
