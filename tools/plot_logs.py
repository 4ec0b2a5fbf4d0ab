# Copyright (c) The serkd_mm authors. All rights reserved.
"""Draw training runs in one picture and print their table.

python tools/plot_logs.py work_dirs/quickstart --out curves.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

from serkd_mm.analysis.logs import find_runs
from serkd_mm.analysis.plot_logs import markdown_table, plot_runs
from serkd_mm.one_line_errors import one_line_errors
from serkd_mm.outputs import check_out_file


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Draw training runs in one picture, print their table',
        epilog='example: python tools/plot_logs.py work_dirs/quickstart '
        '--out curves.png',
    )
    parser.add_argument(
        'folders', nargs='+', help='work dirs, or folders that hold some'
    )
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('curves.png'),
        help='picture (default: %(default)s)',
    )
    args = parser.parse_args()
    with one_line_errors():
        if not args.out.suffix:
            args.out = args.out.with_suffix('.png')
        runs = find_runs(args.folders)
        check_out_file(args.out, '--out')
        plot_runs(runs, args.out)
    print(markdown_table(runs))
    print(f'picture: {args.out}')


if __name__ == '__main__':
    main()
