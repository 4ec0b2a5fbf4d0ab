# Copyright (c) The serkd_mm authors. All rights reserved.
"""Draw the superpixels of teacher and student on images.

python tools/visualize_superpixels.py configs/serkd_deit-s.py \
    work_dirs/serkd_deit-s/epoch_300.pth cat.jpg dog.jpg --out superpixels
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import mmcv

from serkd_mm.engine.cfg_options import CfgOptions
from serkd_mm.one_line_errors import one_line_errors
from serkd_mm.outputs import check_out_folder
from serkd_mm.visualization.tool import visualize


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Draw the superpixels of teacher and student on images',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='example:\n  python tools/visualize_superpixels.py CONFIG '
        'CHECKPOINT cat.jpg dog.jpg \\\n'
        '    --out superpixels --grids 2 4 --iters 1 3',
    )
    parser.add_argument('config', help='config of the distillation')
    parser.add_argument('checkpoint', help='checkpoint of its training')
    parser.add_argument('images', nargs='+', help='images, or folders of them')
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('superpixels'),
        help='folder for the pictures (default: %(default)s)',
    )
    parser.add_argument(
        '--grids',
        type=int,
        nargs='+',
        help="cells of tokens per superpixel (default: the config's)",
    )
    parser.add_argument(
        '--iters',
        type=int,
        nargs='+',
        help="clustering iterations (default: the config's)",
    )
    parser.add_argument(
        '--segmentations',
        type=Path,
        help='npz of human segmentations, (annotators, H, W) under the name '
        'of each image without suffix',
    )
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        help='height and width of the input (default: those of training)',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=CfgOptions,
        help='overrides of the config, key=value',
    )
    args = parser.parse_args()
    if args.size is not None and min(args.size) < 1:
        parser.error(f'--size takes positive numbers, got {args.size}')
    with one_line_errors():
        check_out_folder(args.out, '--out')
        sheets, numbers = visualize(
            args.config,
            args.checkpoint,
            args.images,
            grids=args.grids,
            iters=args.iters,
            segmentations=args.segmentations,
            size=args.size,
            cfg_options=args.cfg_options,
        )
        for name, sheet in sheets.items():
            path = args.out / f'{name}.png'
            mmcv.imwrite(sheet[..., ::-1], str(path))
            print(f'picture: {path}')
        text = json.dumps(_without_nan(numbers), indent=1)
        (args.out / 'agreement.json').write_text(text)
    for line in numbers:
        print('  '.join(f'{k}: {_text(v)}' for k, v in line.items()))


def _without_nan(numbers: list[dict]) -> list[dict]:
    """None for what is not defined, as JSON has no other word for it."""
    return [
        {k: None if v != v else v for k, v in line.items()} for line in numbers
    ]


def _text(value: object) -> str:
    return f'{value:.3f}' if isinstance(value, float) else str(value)


if __name__ == '__main__':
    main()
