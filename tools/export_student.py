# Copyright (c) The serkd_mm authors. All rights reserved.
"""Write the student of a run as a plain MMPretrain checkpoint and config.

python tools/export_student.py work_dirs/serkd_deit-s students/serkd_deit-s.pth
"""

import argparse

import serkd_mm  # noqa: F401
from serkd_mm.engine.export import export_student
from serkd_mm.one_line_errors import MISTAKES, one_line_errors
from serkd_mm.outputs import check_out_file


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Write the student of a run as MMPretrain keeps its '
        'models',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='example:\n  python tools/export_student.py '
        'work_dirs/serkd_deit-s student.pth --onnx',
    )
    parser.add_argument(
        'source', help='checkpoint, or work directory with one'
    )
    parser.add_argument(
        'out', help='.pth file; a part of its hash is added to the name'
    )
    parser.add_argument(
        '--config',
        help='config of the run (default: that in the checkpoint)',
    )
    parser.add_argument(
        '--onnx', action='store_true', help='write a .onnx file too'
    )
    parser.add_argument(
        '--torchscript', action='store_true', help='write a .pt program too'
    )
    parser.add_argument(
        '--size',
        type=int,
        help='height and width of the images of .onnx and .pt (default: what '
        'the config says)',
    )
    args = parser.parse_args()
    if args.size is not None and args.size < 1:
        parser.error(f'--size must be at least 1 pixel, got {args.size}')
    with one_line_errors((*MISTAKES, ImportError)):
        check_out_file(args.out, 'out')
        student = export_student(**vars(args))
    for path in (
        student.checkpoint,
        student.config,
        student.onnx,
        student.torchscript,
    ):
        if path is not None:
            print(path)
    for note in student.notes:
        print(f'Note: {note}.')
    print('Logits equal those of the trained student.')


if __name__ == '__main__':
    main()
