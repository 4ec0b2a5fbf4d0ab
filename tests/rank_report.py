# Copyright (c) The serkd_mm authors. All rights reserved.
"""What the ranks of a tested job write down about themselves."""

from __future__ import annotations

import atexit
import gc
from typing import Any

import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS, METRICS
from mmpretrain.models import VisionTransformer
from mmrazor.registry import MODELS
from torch import nn

from serkd_mm.models import FrozenTeacherDistill

from .jobs import threads_left_of_gloo


@MODELS.register_module()
class MarkedTeacherDistill(FrozenTeacherDistill):
    """The teacher of every rank carries a parameter with the rank's number.

    Nothing computes with it: a broadcast would overwrite it, a reduction
    would wait for its gradient.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        rank = 0
        if torch.distributed.is_initialized():
            rank = torch.distributed.get_rank()
        self.teacher.mark = nn.Parameter(torch.tensor(float(rank)))


def print_threads_of_group() -> None:
    print('threads of Gloo:', threads_left_of_gloo())


@HOOKS.register_module()
class RankReport(Hook):
    """Writes ``report-RANK.pth`` after training."""

    def __init__(self) -> None:
        self.losses: list[dict[str, float]] = []
        self.metrics: dict[str, float] = {}

    def after_train_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        assert outputs is not None
        losses = {name: float(value) for name, value in outputs.items()}
        self.losses.append({**losses, 'images': len(data_batch['inputs'])})

    def after_val_epoch(
        self, runner: Any, metrics: dict[str, float] | None = None
    ) -> None:
        self.metrics = dict(metrics or {})

    def before_run(self, runner: Any) -> None:
        atexit.register(print_threads_of_group)

    def after_train(self, runner: Any) -> None:
        wrapped = is_model_wrapper(runner.model)
        model = runner.model.module if wrapped else runner.model
        # The student's class derives from the teacher's.
        alive = [o for o in gc.get_objects() if type(o) is VisionTransformer]
        report = dict(
            losses=self.losses,
            metrics=self.metrics,
            world_size=runner.world_size,
            wrapper=type(runner.model).__name__ if wrapped else None,
            find_unused=getattr(runner.model, 'find_unused_parameters', None),
            wrapped_names=[name for name, _ in runner.model.named_parameters()]
            + [name for name, _ in runner.model.named_buffers()],
            state={k: v.clone() for k, v in model.state_dict().items()},
            teacher_mark=float(getattr(model.teacher, 'mark', -1.0)),
            teachers=len(alive),
            # A parameter that is divided says what of it is here.
            teacher_size=sum(
                getattr(p, 'to_local', lambda p=p: p)().numel()
                for p in model.teacher.parameters()
            ),
            is_teacher=alive == [model.teacher.backbone],
            teacher_grads=sum(
                p.grad is not None for p in model.teacher.parameters()
            ),
            ema_shares_teacher=[
                hook.ema_model.module.teacher is model.teacher
                for hook in runner.hooks
                if hasattr(hook, 'ema_model')
            ],
        )
        torch.save(report, f'report-{runner.rank}.pth')


@METRICS.register_module()
class ImagesSeen(BaseMetric):
    """Counts the images that the metrics are computed from."""

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results += [sample['img_path'] for sample in data_samples]

    def compute_metrics(self, results: list[str]) -> dict[str, int]:
        return dict(images=len(results), distinct=len(set(results)))
