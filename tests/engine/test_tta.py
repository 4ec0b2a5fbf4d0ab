# Copyright (c) The serkd_mm authors. All rights reserved.
"""Tests on several copies of every image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric

from serkd_mm.engine.launch import build_runner, leave_teacher_out
from serkd_mm.engine.tta import average_over_copies

CONFIG = (
    Path(__file__).resolve().parents[2] / 'configs' / 'quickstart' / 'serkd.py'
)


class Scores(BaseMetric):
    """Keeps the scores of every image."""

    default_prefix = 'scores'

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results += [sample['pred_score'] for sample in data_samples]

    def compute_metrics(self, results: list) -> dict:
        self.scores = torch.stack(results)
        return {'count': len(results)}


@pytest.fixture
def cfg(tmp_path: Path) -> Config:
    cfg = Config.fromfile(CONFIG)
    cfg.work_dir = str(tmp_path)
    cfg.test_dataloader.dataset.indices = 6
    leave_teacher_out(cfg)
    return cfg


def scores(cfg: Config, hook: Any = None, mirrored: bool = False) -> Any:
    torch.manual_seed(0)
    runner = build_runner(cfg)
    for parameter in runner.model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    if hook:
        runner.register_hook(hook)
    if mirrored:
        runner.model.architecture.backbone.register_forward_pre_hook(
            lambda _, args: (args[0].flip(-1),)
        )
    metric = Scores()
    runner.test_evaluator.metrics = [metric]
    runner.test()
    return metric.scores


def test_without_a_pipeline_the_mirror_image_is_added(cfg: Config) -> None:
    plain, mirror = scores(cfg.copy()), scores(cfg.copy(), mirrored=True)
    assert not torch.allclose(plain, mirror)

    hook = average_over_copies(cfg)

    torch.testing.assert_close(scores(cfg, hook), (plain + mirror) / 2)


def test_the_pipeline_of_the_config_is_taken(cfg: Config) -> None:
    steps = cfg.test_dataloader.dataset.pipeline
    twice = dict(type='TestTimeAug', transforms=[[steps[-1]] * 2])
    plain = scores(cfg.copy())
    cfg.tta_pipeline = [*steps[:-1], twice]
    torch.testing.assert_close(scores(cfg, average_over_copies(cfg)), plain)


def test_datasets_inside_wrappers_get_the_copies(cfg: Config) -> None:
    plain, mirror = scores(cfg.copy()), scores(cfg.copy(), mirrored=True)
    inner = cfg.test_dataloader.dataset
    cfg.test_dataloader.dataset = dict(
        type='RepeatDataset', times=2, dataset=inner
    )

    found = scores(cfg, average_over_copies(cfg))

    torch.testing.assert_close(found[:6], (plain + mirror) / 2)
    torch.testing.assert_close(found[6:], found[:6])


def test_a_dataset_without_pipeline_needs_one(cfg: Config) -> None:
    cfg.test_dataloader.dataset.pipeline = []
    with pytest.raises(ValueError, match='write a tta_pipeline'):
        average_over_copies(cfg)
