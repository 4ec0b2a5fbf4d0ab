# Copyright (c) The serkd_mm authors. All rights reserved.
"""Evaluate a checkpoint on the test set of its config.

python tools/test.py configs/serkd_deit-s.py \\
    work_dirs/serkd_deit-s/epoch_300.pth
"""

import argparse
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.evaluator import DumpResults
from mmengine.fileio import dump

from serkd_mm.engine.config_errors import config_errors
from serkd_mm.engine.config_keys import check_split
from serkd_mm.engine.data_checks import check_data
from serkd_mm.engine.launch import (
    add_runner_arguments,
    build_runner,
    clean_exit,
    leave_teacher_out,
    load_config,
    rename_dump,
    workers_end,
)
from serkd_mm.engine.start_checks import START_ERRORS, check_start
from serkd_mm.engine.tta import average_over_copies
from serkd_mm.engine.whole_checkpoint import require_whole_checkpoint
from serkd_mm.one_line_errors import MISTAKES, one_line_errors
from serkd_mm.outputs import check_out_file, check_out_folder


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Evaluate a checkpoint',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='example:\n  python tools/test.py '
        'configs/quickstart/serkd.py \\\n'
        '    work_dirs/quickstart/serkd/epoch_40.pth',
    )
    add_runner_arguments(parser)
    parser.add_argument('checkpoint', help='path or URL of the checkpoint')
    parser.add_argument(
        '--out', help='file to write results to (default: none)'
    )
    parser.add_argument(
        '--out-item',
        choices=['metrics', 'pred'],
        default='pred',
        help='what --out holds: the metrics (.json, .yml, .pkl) or every '
        'prediction (.pkl) (default: %(default)s)',
    )
    parser.add_argument(
        '--amp', action='store_true', help='automatic mixed precision'
    )
    parser.add_argument(
        '--tta',
        action='store_true',
        help='average the scores of each image and its mirror image, or what '
        'tta_pipeline and tta_model of the config say',
    )
    args = parser.parse_args()
    # A name that cannot be written is said before the test, not after it.
    pickles = ('.pkl', '.pickle')
    forms = {'metrics': ('.json', '.yml', '.yaml', *pickles), 'pred': pickles}
    if args.out and Path(args.out).suffix not in forms[args.out_item]:
        parser.error(
            f'--out {args.out}: --out-item {args.out_item} is written to '
            f'{" or ".join(forms[args.out_item])}'
        )
    return args


def evaluate(cfg: Config, args: argparse.Namespace) -> None:
    """Test what a config describes and write what is asked for."""
    with config_errors(cfg):
        average = average_over_copies(cfg) if args.tta else None
        runner = build_runner(cfg)
        if average:
            runner.register_hook(average)
        require_whole_checkpoint(runner, args.config)
        if args.out and args.out_item == 'pred':
            runner.test_evaluator.metrics.append(DumpResults(args.out))
        with workers_end(runner):
            metrics = runner.test()
        if args.out and args.out_item == 'metrics' and is_main_process():
            dump(metrics, args.out)


def main() -> None:
    args = parse_args()
    # Here a wrong type is what the checks say of the config.
    with one_line_errors((*MISTAKES, TypeError)):
        cfg = load_config(args)
        # A resumed run has left another in its config.
        cfg.load_from, cfg.resume = args.checkpoint, False
        leave_teacher_out(cfg)
        check_split(cfg, 'test', needed=True)
        check_data(cfg, ('test_dataloader',))
        check_start(cfg, 'checkpoint')
        check_out_folder(cfg.work_dir, '--work-dir')
        if args.out:
            check_out_file(args.out, '--out')
    rename_dump(cfg, 'test_')
    if args.amp:
        cfg.test_cfg.fp16 = True
    with one_line_errors(START_ERRORS), clean_exit():
        evaluate(cfg, args)


if __name__ == '__main__':
    main()
