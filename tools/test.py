# Copyright (c) The serkd_mm authors. All rights reserved.
"""Evaluate a checkpoint on the test set of its config.

python tools/test.py configs/serkd_deit-s.py work_dirs/epoch_300.pth
"""

import argparse

from mmengine.config import Config
from mmengine.evaluator import DumpResults
from mmengine.fileio import dump

from serkd_mm.engine.config_errors import config_errors
from serkd_mm.engine.data_checks import check_data
from serkd_mm.engine.launch import (
    add_runner_arguments,
    build_runner,
    clean_exit,
    leave_teacher_out,
    load_config,
    workers_end,
)
from serkd_mm.engine.whole_checkpoint import require_whole_checkpoint


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Evaluate a checkpoint',
        epilog='example: python tools/test.py configs/quickstart/serkd.py '
        'work_dirs/quickstart/serkd/epoch_40.pth',
    )
    add_runner_arguments(parser)
    parser.add_argument('checkpoint', help='path or URL of the checkpoint')
    parser.add_argument('--out', help='file to write results to (.json, .pkl)')
    parser.add_argument(
        '--out-item',
        choices=['metrics', 'pred'],
        default='pred',
        help='what --out holds: the metrics or every prediction (.pkl)',
    )
    parser.add_argument(
        '--amp', action='store_true', help='automatic mixed precision'
    )
    return parser.parse_args()


def evaluate(cfg: Config, args: argparse.Namespace) -> dict[str, float]:
    """Test what a config describes and return the metrics."""
    with config_errors(cfg):
        check_data(cfg, ('test_dataloader',))
        runner = build_runner(cfg)
        require_whole_checkpoint(runner)
        if args.out and args.out_item == 'pred':
            runner.test_evaluator.metrics.append(DumpResults(args.out))
        with workers_end(runner):
            return runner.test()


def main() -> None:
    args = parse_args()
    cfg = load_config(args)
    cfg.load_from = args.checkpoint
    if args.amp:
        cfg.test_cfg.fp16 = True
    leave_teacher_out(cfg)
    with clean_exit():
        metrics = evaluate(cfg, args)
    if args.out and args.out_item == 'metrics':
        dump(metrics, args.out)


if __name__ == '__main__':
    main()
