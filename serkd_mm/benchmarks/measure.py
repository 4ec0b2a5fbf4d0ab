# Copyright (c) The serkd_mm authors. All rights reserved.
"""Time and memory, measured alike for all that is compared."""

from __future__ import annotations

import ctypes
import gc
import logging
import math
import multiprocessing
import os
import resource
import statistics
import sys
import time
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Callable

import numpy as np
import torch

Run = Callable[[], object]
Prepare = Callable[..., Run]

MIB = 2**20
# Processes that a peak of memory is the median of.
PROCESSES = 3
# Imported once, before any computation, by the process that the memory
# measurements are forked from.
_PRELOAD = [
    f'serkd_mm.benchmarks.{name}'
    for name in ('relation', 'superpixel', 'peers')
]


@dataclass(frozen=True)
class Options:
    """What the command line asks for.

    Attributes:
        device: ``'cpu'`` or ``'cuda'``.
        threads: Number of CPU threads of PyTorch.
        repeats: Rounds of timing; None for the sub-command's own number.
        quick: Tiny sizes that show that everything runs.
    """

    device: str = 'cpu'
    threads: int = 1
    repeats: int | None = None
    quick: bool = False

    def rounds(self, default: int) -> int:
        """Rounds of timing."""
        return self.repeats or (2 if self.quick else default)

    @property
    def shortest(self) -> float:
        """Milliseconds that a timing lasts at least; shorter runs repeat.

        What ``torch.utils.benchmark`` takes: a single short call is at the
        mercy of whatever else the machine does.
        """
        return 0.0 if self.quick else 200.0


@dataclass(frozen=True)
class Memory:
    """Peak memory in MiB.

    Attributes:
        total: Above what the process held before anything was prepared.
        extra: Above what it held once the inputs were there.
        spread: Largest less smallest total of the processes that it is the
            median of.
    """

    total: float
    extra: float
    spread: float = 0.0


def interleaved(
    runs: Mapping[str, Run],
    repeats: int,
    options: Options,
    before: Callable[[int], object] = lambda index: None,
    once: bool = False,
) -> dict[str, list[float]]:
    """Milliseconds of every run in every round, after a round of warm-up.

    Args:
        runs: What to time, by name. A round times each once, in this order,
            so that a machine that slows down does so for all of them. A
            timing is the mean of as many calls as last ``options.shortest``.
        repeats: Number of rounds.
        options: Device and length of a timing; CUDA is timed by events, all
            else by the wall clock.
        before: Called with the number of the round before each timing.
        once: Whether a timing is one call, however short.

    Returns:
        Lists of ``repeats`` times by name.
    """
    cuda = options.device == 'cuda'
    times: dict[str, list[float]] = {name: [] for name in runs}
    calls = dict.fromkeys(runs, 1)
    for index in range(-1, repeats):
        for name, run in runs.items():
            before(index)
            elapsed = milliseconds(run, options.device, calls[name])
            if index >= 0:
                times[name].append(elapsed)
            elif not once and (cuda or elapsed < options.shortest):
                # What a GPU compiles or loads first is no measure.
                warm = milliseconds(run, options.device)
                calls[name] = max(1, math.ceil(options.shortest / warm))
    return times


def milliseconds(run: Run, device: str, calls: int = 1) -> float:
    """Mean duration of some calls, one after the other."""
    if device != 'cuda':
        start = time.perf_counter()
        for _ in range(calls):
            run()
        return 1e3 * (time.perf_counter() - start) / calls
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    first.record()
    for _ in range(calls):
        run()
    last.record()
    torch.cuda.synchronize()
    return first.elapsed_time(last) / calls


def captured(run: Run, device: str) -> Run:
    """On CUDA, what a run launches as one graph; elsewhere the run itself.

    A graph takes what its kernels need and not what the host needs to launch
    them, which for a short run is more.
    """
    if device != 'cuda':
        return run
    # Capturing needs all that is built or allocated once to be there.
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def quartiles(samples: list[float]) -> dict[str, float]:
    """Lower quartile, median and upper quartile."""
    q1, median, q3 = np.percentile(samples, (25, 50, 75))
    return dict(q1=float(q1), median=float(median), q3=float(q3))


def ratios(over: list[float], under: list[float]) -> dict[str, float]:
    """Quartiles of the ratio of two runs of the same round."""
    return quartiles([a / b for a, b in zip(over, under)])


def timing_cells(
    times: Mapping[str, list[float]], name: str, over: str, under: str
) -> dict[str, float]:
    """Cells of a table: milliseconds of a run, and a ratio, with quartiles.

    Args:
        times: What :func:`interleaved` returns.
        name: The run.
        over: Numerator of the ratio, in each round.
        under: Its denominator.
    """
    time, ratio = quartiles(times[name]), ratios(times[over], times[under])
    return {
        'median ms': time['median'],
        'q1': time['q1'],
        'q3': time['q3'],
        'ratio': ratio['median'],
        'ratio q1': ratio['q1'],
        'ratio q3': ratio['q3'],
    }


def peak_memory(
    prepare: Prepare,
    arguments: dict[str, Any],
    options: Options,
    warm: dict[str, Any],
) -> Memory:
    """Peak memory of ``prepare(**arguments)()``.

    On a CPU from the largest resident set of processes of its own, which are
    forked from one that has imported the package and computed nothing, the
    median of them; on CUDA from the allocator of this process.

    Args:
        prepare: Module-level function that makes the inputs and returns what
            is to be measured.
        arguments: Its arguments.
        options: Device and threads.
        warm: Arguments that make a tiny run of it, which comes first: code
            that is used for the first time becomes resident as well.
    """
    warm = {**arguments, **warm}
    if options.device == 'cuda':
        return _cuda_memory(prepare, arguments, warm)
    found = [
        _in_process(prepare, arguments, options, warm)
        for _ in range(1 if options.quick else PROCESSES)
    ]
    totals, extras = zip(*found)
    return Memory(
        statistics.median(totals),
        statistics.median(extras),
        max(totals) - min(totals),
    )


def _in_process(
    prepare: Prepare, arguments: dict, options: Options, warm: dict
) -> tuple[float, float]:
    """Total and extra peak of one process."""
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(_PRELOAD)
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(
        target=_measure_child,
        args=(sender, prepare, arguments, warm, options.threads),
    )
    child.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        raise RuntimeError(
            f'the process that measured {prepare.__name__}({arguments}) died; '
            'its own message is above, or it ran out of memory'
        ) from None
    finally:
        child.join()


def _measure_child(
    sender: Connection,
    prepare: Prepare,
    arguments: dict,
    warm: dict,
    threads: int,
) -> None:
    gc.freeze()  # Else collections walk through all that is imported.
    warnings.simplefilter('ignore')
    logging.disable(logging.WARNING)
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    prepare(**warm)()
    start = settle()
    run = prepare(**arguments)
    ready = settle()
    run()
    peak = max_rss()
    sender.send(((peak - start) / MIB, (peak - ready) / MIB))


def _cuda_memory(prepare: Prepare, arguments: dict, warm: dict) -> Memory:
    prepare(**warm)()
    gc.collect()
    start = torch.cuda.memory_allocated()
    run = prepare(**arguments)
    ready = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    peak = torch.cuda.max_memory_allocated()
    del run
    return Memory((peak - start) / MIB, (peak - ready) / MIB)


def settle() -> int:
    """Give freed memory back, lower the peak to what is in use, return it.

    The peak is that of :func:`max_rss`. A system that is not Linux keeps it.
    """
    gc.collect()
    with suppress(OSError, AttributeError):  # glibc
        ctypes.CDLL('libc.so.6').malloc_trim(0)
    with suppress(OSError):  # Linux
        Path('/proc/self/clear_refs').write_text('5')
    return max_rss()


def max_rss() -> int:
    """Largest resident set of this process, bytes."""
    unit = 1 if sys.platform == 'darwin' else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def available_memory(device: str) -> int:
    """Bytes that can be allocated."""
    if device == 'cuda':
        return torch.cuda.mem_get_info()[0]
    with suppress(OSError):
        for line in Path('/proc/meminfo').read_text().splitlines():
            if line.startswith('MemAvailable'):
                return int(line.split()[1]) * 1024
    return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') // 2
