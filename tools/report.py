# Copyright (c) The serkd_mm authors. All rights reserved.
"""Write a run as one HTML page: result, curves, superpixels, config.

python tools/report.py work_dirs/quickstart/serkd
"""

from __future__ import annotations

import argparse
from pathlib import Path

from serkd_mm.analysis.logs import find_runs
from serkd_mm.analysis.report import write_report
from serkd_mm.one_line_errors import one_line_errors
from serkd_mm.outputs import check_out_file


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Write a run as one HTML page',
        epilog='example: python tools/report.py work_dirs/quickstart/serkd',
    )
    parser.add_argument('work_dir', type=Path, help='work dir of a training')
    parser.add_argument(
        '--out', type=Path, help='page (default: WORK_DIR/report.html)'
    )
    args = parser.parse_args()
    with one_line_errors():
        runs = find_runs([args.work_dir])
        # A run may hold others, below its own logs.
        if len(runs) > 1 and runs[0].folder != args.work_dir:
            names = ', '.join(str(run.folder) for run in runs)
            raise ValueError(f'several runs, name one of {names}')
        path = args.out or args.work_dir / 'report.html'
        check_out_file(path, '--out')
        write_report(runs[0], path)
    print(f'report: {path}')


if __name__ == '__main__':
    main()
