# Copyright (c) The serkd_mm authors. All rights reserved.
"""Train a config, alone or as one process of a distributed job.

python tools/train.py configs/serkd_deit-s.py --amp
"""

import argparse

from mmengine.config import Config
from mmengine.device import get_device

from serkd_mm.engine.config_checks import check_config
from serkd_mm.engine.config_keys import check_split
from serkd_mm.engine.data_checks import check_data
from serkd_mm.engine.launch import (
    add_runner_arguments,
    clean_exit,
    load_config,
    resume_after_restart,
    train,
)
from serkd_mm.engine.optimizers import mix_precision
from serkd_mm.engine.start_checks import START_ERRORS, check_start
from serkd_mm.one_line_errors import MISTAKES, one_line_errors
from serkd_mm.outputs import check_out_folder


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Train a config',
        epilog='example: python tools/train.py configs/serkd_deit-s.py --amp',
    )
    add_runner_arguments(parser)
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='go on from this checkpoint (default, where the option is given '
        'without one: the latest of the work dir)',
    )
    parser.add_argument(
        '--amp',
        action='store_true',
        help='automatic mixed precision: float16 on a GPU, unless the config '
        'has another optim_wrapper.dtype or is bfloat16, bfloat16 on CPUs '
        "and Apple's GPUs",
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate from auto_scale_lr.base_batch_size to '
        'the batch size of this run',
    )
    parser.add_argument(
        '--no-validate', action='store_true', help='train without validation'
    )
    parser.add_argument(
        '--skip-broken-images',
        action='store_true',
        help='replace broken training images by the next ones, count and name '
        'them in the log, instead of stopping',
    )
    return parser.parse_args()


def merge_training_options(cfg: Config, args: argparse.Namespace) -> None:
    """Put the options that only training has into the config."""
    if args.amp:
        mix_precision(cfg.optim_wrapper, get_device())
    if args.auto_scale_lr:
        if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
            raise ValueError(
                '--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...)'
                f' in {args.config}: the batch size that its learning rate is '
                'for'
            )
        cfg.auto_scale_lr.enable = True
    if args.no_validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    if args.skip_broken_images:
        cfg.train_dataloader.dataset = dict(
            type='SkipBrokenImages', dataset=cfg.train_dataloader.dataset
        )
    if args.resume is not None:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume


def main() -> None:
    args = parse_args()
    # Here a wrong type is what the checks say of the config.
    with one_line_errors((*MISTAKES, TypeError)):
        cfg = load_config(args)
        check_split(cfg, 'train', needed=True)
        merge_training_options(cfg, args)
        resume_after_restart(cfg)
        named = args.resume not in (None, 'auto')
        check_config(cfg)
        check_data(cfg, ('train_dataloader', 'val_dataloader'))
        check_start(cfg, '--resume' if named else 'load_from')
        check_out_folder(cfg.work_dir, '--work-dir')
    with one_line_errors(START_ERRORS), clean_exit():
        train(cfg)


if __name__ == '__main__':
    main()
