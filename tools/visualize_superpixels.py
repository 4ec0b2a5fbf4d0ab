# Copyright (c) The serkd_mm authors. All rights reserved.
"""Draw the superpixels of teacher and student on images.

python tools/visualize_superpixels.py configs/serkd_deit-s.py \
    work_dirs/serkd_deit-s/epoch_300.pth cat.jpg dog.jpg --out superpixels
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2

from serkd_mm.engine.cfg_options import CfgOptions
from serkd_mm.one_line_errors import one_line_errors
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
    with one_line_errors():
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
    args.out.mkdir(parents=True, exist_ok=True)
    for name, sheet in sheets.items():
        path = args.out / f'{name}.png'
        cv2.imwrite(str(path), sheet[..., ::-1])
        print(f'picture: {path}')
    (args.out / 'agreement.json').write_text(json.dumps(numbers, indent=1))
    for line in numbers:
        print('  '.join(f'{k}: {_text(v)}' for k, v in line.items()))


def _text(value: object) -> str:
    return f'{value:.3f}' if isinstance(value, float) else str(value)


if __name__ == '__main__':
    main()
