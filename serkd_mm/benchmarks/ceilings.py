# Copyright (c) The serkd_mm authors. All rights reserved.
"""What the device can do at best, and the time that a kernel needs there."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..ops.relation_fused import RELATIONS, full_precision
from ..ops.relation_triton import tile
from .measure import Options, Run, captured, interleaved, quartiles
from .report import Table

ROUNDS = 15


@dataclass(frozen=True)
class Cost:
    """What the sums over the ``K^3`` triples of an image cost.

    Attributes:
        operations: Float32 instructions per triple.
        cache_bytes: Bytes per triple that go through the caches.
        memory_bytes: Bytes per pair that go through device memory.
    """

    operations: float
    cache_bytes: float
    memory_bytes: float

    def milliseconds(
        self, batch: int, num: int, found: dict[str, float]
    ) -> dict[str, float]:
        """Least time by arithmetic, caches and memory."""
        triples, pairs = batch * num**3, batch * num**2
        return {
            'operations': 1e3
            * self.operations
            * triples
            / found['operations'],
            'cache': 1e3 * self.cache_bytes * triples / found['cache'],
            'memory': 1e3 * self.memory_bytes * pairs / found['memory'],
        }


def cost(impl: str, num: int) -> Cost:
    """What is counted in the module of each implementation.

    Chunked: 15 passes over half of the triples, one instruction, 4 bytes read
    and 4 written each. Triton: its float32 arithmetic alone, without padding
    and addresses.

    Args:
        impl: ``'chunked'`` or ``'triton'``.
        num: Number of tokens K.
    """
    if impl == 'chunked':
        return Cost(operations=7.5, cache_bytes=60, memory_bytes=24)
    rows, _, _ = tile(num, interpreted=False)
    return Cost(operations=22, cache_bytes=16 / rows, memory_bytes=24)


def ceilings(options: Options) -> dict[str, float]:
    """Measured rates of the device, per second.

    Returns:
        ``operations``: float32 instructions, from a matrix product in full
        precision (a multiply-add is one). ``cache``: bytes read and written
        in place over a tensor that the caches hold. ``memory``: bytes read
        and written by a copy that they do not hold.
    """
    cuda, device = options.device == 'cuda', options.device
    side = 64 if options.quick else (8192 if cuda else 1024)
    small = (1 << 14) if options.quick else (1 << (22 if cuda else 17))
    large = (1 << 16) if options.quick else (1 << (28 if cuda else 26))
    square = torch.randn(side, side, device=device)
    product = torch.empty_like(square)
    held = torch.zeros(small, device=device)
    source = torch.zeros(large, device=device)
    target = torch.zeros_like(source)
    passes = 200

    def in_place() -> None:
        for _ in range(passes):
            held.add_(1.0)

    runs: dict[str, Run] = {
        'operations': lambda: torch.mm(square, square, out=product),
        # Else its launches would take as long as its work.
        'cache': captured(in_place, device),
        'memory': lambda: target.copy_(source),
    }
    work = dict(operations=side**3, cache=8 * small * passes, memory=8 * large)
    with full_precision(device):
        times = interleaved(runs, options.rounds(ROUNDS), options)
    return {n: 1e3 * work[n] / quartiles(t)['q1'] for n, t in times.items()}


def against_ceilings(
    options: Options, impl: str, shapes: list[tuple[int, int]]
) -> Table:
    """Time of the sums over triples beside the least time for them.

    On CUDA without the launches, see :func:`.measure.captured`.

    Args:
        options: Device.
        impl: ``'chunked'`` or ``'triton'``.
        shapes: Pairs (B, K).
    """
    found = ceilings(options)
    rows = []
    for batch, num in shapes:
        tokens = torch.randn(2, batch, num, 16, device=options.device)
        squared = torch.cdist(tokens, tokens).square()
        inverse = squared.rsqrt().nan_to_num(posinf=0.0)
        run = captured(_run(impl, squared, inverse), options.device)
        times = interleaved({impl: run}, options.rounds(ROUNDS), options)
        measured = quartiles(times[impl])['median']
        least = cost(impl, num).milliseconds(batch, num, found)
        binds = max(least, key=lambda name: least[name])
        rows.append({
            '(B, K)': f'({batch}, {num})',
            'measured ms': measured,
            **{f'{name} ms': value for name, value in least.items()},
            'binds': binds,
            'measured / least': measured / least[binds],
        })  # fmt: skip
    rates = ', '.join(f'{name} {rate:.3g}/s' for name, rate in found.items())
    title = f'Sums over triples of {impl} against measured ceilings ({rates})'
    return Table(title, rows)


def _run(impl: str, squared: torch.Tensor, inverse: torch.Tensor) -> Run:
    terms = RELATIONS[f'angle_{impl}'].terms
    return lambda: terms(squared, inverse, True)
