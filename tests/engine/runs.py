# Copyright (c) The serkd_mm authors. All rights reserved.
"""Training runs that take a fraction of a second."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import Dataset

IMAGES, BATCH, EPOCHS = 8, 2, 3
STEPS = IMAGES // BATCH
# Runners of one second would share their message hub otherwise.
_runs = itertools.count()


class Line(BaseModel):
    """One linear layer; enough to have weights and an optimizer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, inputs: Tensor, mode: str = 'tensor') -> Any:
        outputs = self.layer(torch.stack(list(inputs)))
        if mode == 'loss':
            return dict(loss=outputs.square().mean())
        return list(outputs)


class Lines(Line):
    """Two of them; each has an optimizer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(3, 1), nn.Linear(1, 1))

    def train_step(self, data: dict, optim_wrapper: Any) -> dict:
        losses = self(**self.data_preprocessor(data, True), mode='loss')
        loss, log = self.parse_losses(losses)
        loss.backward()
        for wrapper in optim_wrapper.values():
            wrapper.step()
            wrapper.zero_grad()
        return log


class Points(Dataset):
    def __init__(self, size: int = IMAGES) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict:
        return dict(inputs=torch.full((3,), index / IMAGES))


class Scores(BaseMetric):
    """One score after the other, as if the validation had found them."""

    def __init__(self, scores: Any = (1.0,)) -> None:
        super().__init__()
        self.scores = iter(scores)

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results.append(0)

    def compute_metrics(self, results: list) -> dict:
        return dict(score=next(self.scores))


def build_runner(
    work_dir: Path, hooks: dict | None = None, **overrides: Any
) -> Runner:
    """A run of :data:`EPOCHS` epochs of :data:`STEPS` steps each."""
    hooks = hooks or {}
    checkpoint = dict(type='AtomicCheckpointHook', interval=1)
    checkpoint.update(hooks.get('checkpoint', {}))
    cfg = dict(
        model=Line(),
        train_dataloader=dict(
            batch_size=BATCH,
            num_workers=0,
            dataset=Points(),
            sampler=dict(type='DefaultSampler', shuffle=True),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=EPOCHS),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9)),
        default_hooks={**hooks, 'checkpoint': checkpoint},
        randomness=dict(seed=0),
        default_scope='mmengine',
        experiment_name=f'run_{next(_runs)}',
    )
    return Runner(work_dir=str(work_dir), **{**cfg, **overrides})


def two_optimizers() -> dict:
    """Overrides for a run with an optimizer per layer."""
    model = Lines()
    wrappers = {
        name: OptimWrapper(torch.optim.SGD(layer.parameters(), lr=0.1))
        for name, layer in model.layer.named_children()
    }
    return dict(model=model, optim_wrapper=OptimWrapperDict(**wrappers))


def validation(*scores: float, interval: int = 1) -> dict:
    """Overrides for a run that validates."""
    return dict(
        train_cfg=dict(
            by_epoch=True, max_epochs=EPOCHS, val_interval=interval
        ),
        val_dataloader=dict(
            batch_size=BATCH,
            num_workers=0,
            dataset=Points(2),
            sampler=dict(type='DefaultSampler', shuffle=False),
        ),
        val_cfg=dict(),
        val_evaluator=[Scores(scores)],
    )


def log_of(work_dir: Path) -> str:
    return ''.join(p.read_text() for p in sorted(work_dir.glob('*/*.log')))


def checkpoints_of(work_dir: Path) -> list[str]:
    return sorted(p.name for p in work_dir.glob('*.pth'))
