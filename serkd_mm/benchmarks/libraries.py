# Copyright (c) The serkd_mm authors. All rights reserved.
"""Which libraries plain KD and RKD are measured in.

timm and torchdistill are optional: what is not installed is left out, and a
note says so.
"""

from __future__ import annotations

from importlib import metadata

HOST, TIMM, TORCHDISTILL, OURS = 'MMRazor', 'timm', 'torchdistill', 'serkd_mm'
CONFIG = 'serkd_deit-ti.py'


def version(library: str) -> str | None:
    """Version of an installed distribution, None without."""
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


def installed(*names: str) -> list[str]:
    """Those of the libraries that are there."""
    return [name for name in names if version(name)]


def describe() -> list[str]:
    """Notes on what is measured in which version, and what is left out."""
    notes = [
        'KD: cross-entropy on the class head and KL divergence on the '
        'distillation head of one DeiT-Ti, with the weights, batches and '
        f'preprocessing of the first table. {HOST}: SingleTeacherDistill; '
        f'{OURS}: FrozenTeacherDistill; {TIMM}: TokenDistillationTask in a '
        f'plain loop; {TORCHDISTILL}: DistillationBox with two forward hooks '
        'and its own AdamW. Teachers are handed over in training mode, as '
        'modules are built.',
        'RKD: distances and angles between the images of a batch, weights 1 '
        'and 2, of embeddings brought to unit length; forward and backward of '
        'the student side in float32. Errors are those against difference '
        'tensors in float64, of the gradient over its largest entry. '
        f'{TIMM} has no such loss.',
        f'Ratio of KD and RKD: time over {OURS} in the same round, median and '
        'quartiles.',
    ]
    there = installed(TIMM, TORCHDISTILL)
    absent = [name for name in (TIMM, TORCHDISTILL) if name not in there]
    if there:
        versions = ', '.join(f'{name} {version(name)}' for name in there)
        notes.append(f'Versions: {versions}.')
    if absent:
        notes.append(
            f'Not installed and left out: {", ".join(absent)} (pip install '
            f'{" ".join(absent)}).'
        )
    return notes
