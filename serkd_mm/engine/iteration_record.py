# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from torch import Tensor

from .forward_dump import img_paths, save_dump
from .random_state import get_random_state

# Of longer lists of names the first ones are shown.
SHOWN = 8


class IterationRecord:
    """What a training iteration starts from, and the losses it finds.

    Args:
        model: Model in training, not wrapped.
        data_batch: Batch as the data loader hands it over.
    """

    def __init__(self, model: BaseModel, data_batch: Any) -> None:
        self.model = model
        self.data_batch = data_batch
        self.losses: list[dict] = []
        self._random_state = get_random_state()
        self._buffers = [b.detach().clone() for b in model.buffers()]
        # Preprocessing writes mixed labels into the loader's samples.
        samples = data_batch.get('data_samples') or []
        self._samples = [(s, dict(s.items())) for s in samples]

    @torch.no_grad()
    def losses_finite(self) -> Tensor:
        """Whether what training minimises is finite, on the device."""
        device = next(self.model.parameters()).device
        totals = [self.model.parse_losses(found)[0] for found in self.losses]
        totals.append(torch.zeros((), device=device))
        return torch.stack(totals).isfinite().all()

    @torch.no_grad()
    def restore_buffers(self) -> None:
        """Put the model's buffers back to where the iteration started."""
        for buffer, before in zip(self.model.buffers(), self._buffers):
            buffer.copy_(before)

    def save(self, path: Path, cfg: Config, amp: dict[str, Any]) -> str:
        """Write a dump for :func:`serkd_mm.engine.replay`, the batch as it
        came.

        Args:
            path: File to write.
            cfg: Config of the run.
            amp: Arguments of :func:`mmengine.runner.autocast`.

        Returns:
            What came of it, in words: a full disk hides no other error.
        """
        for sample, fields in self._samples:
            for name in set(sample.keys()) - set(fields):
                sample.pop(name)
            sample.set_data(fields)
        losses = [name for found in self.losses for name in found]
        try:
            save_dump(
                path,
                self.model,
                cfg,
                self.data_batch,
                self._random_state,
                amp,
                losses,
            )
        except Exception as error:  # other ranks wait for this one
            return f'no dump, as {path} could not be written ({error})'
        return f'serkd_mm.engine.replay({str(path)!r}) computes them again'

    def describe(self) -> str:
        """Losses, gradients and images, those to blame first."""
        losses: dict[str, float] = {}
        for found in self.losses:
            values = self.model.parse_losses(found)[1].items()
            losses.update({name: float(value) for name, value in values})
        bad = [name for name in losses if not math.isfinite(losses[name])]
        good = [name for name in losses if name not in bad]
        parts = [
            f'losses {", ".join(f"{n}={losses[n]:.4g}" for n in bad + good)}'
        ]
        device = next(self.model.parameters()).device
        names = [
            name
            for name, parameter in self.model.named_parameters()
            if not gradients_finite([parameter], device)
        ]
        if names:
            parts.append(f'gradients not finite of {shorten(names)}')
        paths = img_paths(self.data_batch)
        if paths:
            parts.append(f'images {shorten(paths)}')
        return '; '.join(parts)


def gradients_finite(
    parameters: Iterable[Tensor], device: torch.device
) -> Tensor:
    """Whether the gradients are finite, without waiting for the device.

    Their lengths are looked at, in one pass. One that float32 cannot hold
    (2e19) counts as infinite, as it is for clipping and for Adam's squares.

    Args:
        parameters: Parameters; those without gradient are left out.
        device: Device of the answer.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return torch.ones((), dtype=torch.bool, device=device)
    lengths = torch._foreach_norm(gradients)
    return torch.stack([x.to(device) for x in lengths]).isfinite().all()


def shorten(names: list[str]) -> str:
    """The first few names and how many there are.

    Example:
        >>> shorten(['a', 'b'])
        'a, b'
        >>> shorten([str(i) for i in range(100)])
        '0, 1, 2, 3, 4, 5, 6, 7, ... (100 in all)'
    """
    text = ', '.join(names[:SHOWN])
    more = len(names) > SHOWN
    return f'{text}, ... ({len(names)} in all)' if more else text
