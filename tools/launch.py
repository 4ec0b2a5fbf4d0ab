# Copyright (c) The serkd_mm authors. All rights reserved.
"""torchrun whose exit code names the signal that ended it.

torchrun passes SIGTERM on to its processes and waits for them, and then ends
with a traceback and exit code 1, as if training had failed. Here it is
128 + signal, the shell's convention: 143 after SIGTERM.
"""

import sys

from torch.distributed import run
from torch.distributed.elastic.multiprocessing import SignalException


def main() -> None:
    try:
        run.main()
    except SignalException as error:
        print(f'launcher: ended by {error.sigval.name}', file=sys.stderr)
        sys.exit(128 + error.sigval)


if __name__ == '__main__':
    main()
