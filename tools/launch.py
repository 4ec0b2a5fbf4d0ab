# Copyright (c) The serkd_mm authors. All rights reserved.
"""torchrun for jobs that are ended and go on.

torchrun passes SIGTERM on to its processes and waits for them, and then ends
with a traceback and exit code 1, as if training had failed. Here it is
128 + signal, the shell's convention: 143 after SIGTERM, also where the signal
reached another node and the processes ended with that code. Processes that it
restarts learn when the job started, and so which checkpoints are the job's.
"""

import os
import signal
import sys
import time

from torch.distributed import run
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError


def main() -> None:
    # serkd_mm.engine.launch reads it; importing that would take seconds.
    os.environ['SERKD_MM_STARTED'] = repr(time.time())
    try:
        run.main()
    except SignalException as error:
        code = 128 + error.sigval
    except ChildFailedError as error:
        codes = {failure.exitcode for failure in error.failures.values()}
        code = codes.pop()
        # Negative: killed; small: an error of Python, which is shown.
        if codes or code - 128 not in {*signal.Signals}:
            raise
    else:
        return
    name = signal.Signals(code - 128).name
    print(f'launcher: ended by {name}', file=sys.stderr)
    sys.exit(code)


if __name__ == '__main__':
    main()
