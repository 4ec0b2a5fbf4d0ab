# Copyright (c) The serkd_mm authors. All rights reserved.
"""Checkpoints of distillation beside those of its student alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmpretrain.structures import DataSample
from torch.utils.data import Dataset

from tests.engine.runs import build_runner

# What the distiller trains, a projection of 192 to 768 channels, is 2.5 % of
# DeiT-Ti, the smallest student of the paper.
LIMIT = 1.05
ROOT = Path(__file__).resolve().parents[3]


class Grey(Dataset):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> dict:
        return dict(
            inputs=torch.full((3, 224, 224), 128.0),
            data_samples=DataSample().set_gt_label(index),
        )


def size_of_checkpoint(work_dir: Path, cfg: Config, model: Any) -> int:
    """Bytes after an epoch of one iteration with the config's optimizer."""
    build_runner(
        work_dir,
        hooks=dict(exact_resume=dict(type='ExactResumeHook')),
        model=model,
        data_preprocessor=dict(cfg.data_preprocessor),
        train_dataloader=dict(
            batch_size=2,
            num_workers=0,
            dataset=Grey(),
            sampler=dict(type='DefaultSampler', shuffle=True),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=cfg.optim_wrapper,
        custom_hooks=[dict(type='EMAHook', momentum=1e-4)],
        default_scope='mmpretrain',
    ).train()
    return (work_dir / 'epoch_1.pth').stat().st_size


@pytest.mark.slow
def test_a_checkpoint_is_hardly_larger_than_the_students_own(
    tmp_path: Path,
) -> None:
    cfg = Config.fromfile(ROOT / 'configs' / 'serkd_deit-ti.py')
    student = cfg.model.architecture.copy()
    # MMPretrain's own head trains all parameters of this student.
    student.head = dict(type='DeiTClsHead', num_classes=1000, in_channels=192)
    cfg.model.teacher_ckpt = None
    cfg.model.allow_random_teacher = True

    alone = size_of_checkpoint(tmp_path / 'alone', cfg, student)
    distilled = size_of_checkpoint(tmp_path / 'distilled', cfg, cfg.model)

    # Weights, averaged weights and two moments of 5.9 M parameters.
    assert alone > 4 * 4 * 5.9e6
    assert alone < distilled <= LIMIT * alone
