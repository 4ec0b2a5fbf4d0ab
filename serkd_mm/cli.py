# Copyright (c) The serkd_mm authors. All rights reserved.
"""The command ``serkd``: the tools under one name."""

from __future__ import annotations

import runpy
import sys

from .paths import own_folder

# Command: tool, what it does, an example of its arguments.
COMMANDS = {
    'train': ('train', 'train a config', 'serkd_mm::serkd_deit-s.py'),
    'test': ('test', 'evaluate a student', 'CONFIG CHECKPOINT'),
    'check': ('check_pair', 'try a pair without data', 'CONFIG'),
    'export': ('export_student', 'write the student', 'WORK_DIR OUT.pth'),
    'visualize': (
        'visualize_superpixels',
        'draw superpixels',
        'CONFIG CHECKPOINT IMAGES',
    ),
    'ablate': ('ablate', 'run a study over seeds', 'run digits --jobs 2'),
    'plot': ('plot_logs', 'draw runs together', 'work_dirs/a work_dirs/b'),
    'report': ('report', 'write a run as a page', 'WORK_DIR'),
    'benchmark': ('benchmark', 'measure speed and memory', 'step'),
}


def main() -> None:
    """Run the tool that the first argument names with the other ones."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ('-h', '--help'):
        print(usage())
        return
    command, *rest = arguments
    if command not in COMMANDS:
        sys.exit(
            f'serkd: there is no command {command!r}; there are '
            f'{", ".join(COMMANDS)} (serkd --help says more)'
        )
    tool = own_folder('tools') / f'{COMMANDS[command][0]}.py'
    sys.argv = [str(tool), *rest]
    runpy.run_path(str(tool), run_name='__main__')


def usage() -> str:
    """What ``serkd --help`` prints."""
    lines = [
        f'  {command:11}{what:25}serkd {command} {example}'
        for command, (_, what, example) in COMMANDS.items()
    ]
    return '\n'.join([
        'usage: serkd COMMAND ARGUMENTS',
        '',
        *lines,
        '',
        'serkd COMMAND --help tells the options of a command.',
        'On several GPUs: tools/dist_train.sh CONFIG GPUS.',
    ])  # fmt: skip


if __name__ == '__main__':
    main()
