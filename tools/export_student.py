# Copyright (c) The serkd_mm authors. All rights reserved.
"""Write the student of a run as a plain MMPretrain checkpoint and config.

python tools/export_student.py work_dirs/serkd_deit-s students/serkd_deit-s.pth
"""

import argparse

import serkd_mm  # noqa: F401
from serkd_mm.engine.export import export_student


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Write the student of a run as MMPretrain keeps its models'
    )
    parser.add_argument(
        'source', help='checkpoint, or work directory with one'
    )
    parser.add_argument(
        'out', help='.pth file; a part of its hash is added to the name'
    )
    args = parser.parse_args()
    checkpoint, config = export_student(args.source, args.out)
    print(
        f'{checkpoint}\n{config}\nLogits equal those of the trained student.'
    )


if __name__ == '__main__':
    main()
