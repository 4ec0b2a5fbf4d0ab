# Copyright (c) The serkd_mm authors. All rights reserved.
"""A Runner around the tiny models: a few images, one epoch, no output."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from mmengine.dataset import default_collate
from mmengine.runner import Runner
from mmpretrain.structures import DataSample
from torch import nn
from torch.utils.data import DataLoader, Dataset

from tests.models.builders import CLASSES


def images(count: int, seed: int = 0) -> list[dict]:
    """What a dataset hands over: pixels, labels and file names."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, 32, 32), generator=generator)
    return [
        dict(
            inputs=image,
            data_samples=DataSample(
                metainfo=dict(img_path=f'images/{i}.png')
            ).set_gt_label(i % CLASSES),
        )
        for i, image in enumerate(pixels.float())
    ]


class Fresh(Dataset):
    """Copies, as preprocessing writes into the samples that it gets."""

    def __init__(self, samples: list[dict]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict:
        return copy.deepcopy(self.samples[index])


def loader(
    samples: list[dict], batch_size: int = 4, **settings: Any
) -> DataLoader:
    return DataLoader(
        Fresh(samples), batch_size, collate_fn=default_collate, **settings
    )


def make_runner(
    work_dir: Path, model: nn.Module | dict, **overrides: Any
) -> Runner:
    """Train for 4 steps of 4 images, unless ``overrides`` say otherwise."""
    settings = dict(
        model=model,
        work_dir=str(work_dir),
        train_dataloader=loader(images(16)),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9)),
        default_scope='mmpretrain',
        randomness=dict(seed=0),
        log_level='WARNING',
        # Loggers and the like are kept by name.
        experiment_name=str(work_dir),
    )
    return Runner(**{**settings, **overrides})
