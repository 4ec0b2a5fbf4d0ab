# Copyright (c) The serkd_mm authors. All rights reserved.
"""One forward pass of a training run, kept on disk and computed again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from mmengine.runner import autocast, save_checkpoint
from torch import Tensor

from ..models.from_config import build_model
from .optimizers import cpu_attention
from .random_state import kept_random_state, set_random_state

# What a loss with a schedule of its own reads from the message hub.
_PROGRESS = ('iter', 'max_iters')


class Replay(NamedTuple):
    """What :func:`replay` finds.

    Attributes:
        loss: The sum that training calls ``backward`` on, with its graph.
        losses: Value of every entry of the log, ``loss`` among them.
        img_paths: File names of the batch, where its samples have them.
        model: The model, with the gradients that it had: none.
    """

    loss: Tensor
    losses: dict[str, float]
    img_paths: list[str]
    model: BaseModel


def save_dump(
    path: Path,
    model: BaseModel,
    cfg: Config,
    data_batch: Any,
    random_state: dict[str, Any],
    amp: dict[str, Any],
    losses: list[str],
) -> None:
    """Write all that a forward pass depends on; the file is whole or absent.

    Args:
        path: File to write, its folder is made.
        model: Model before the update. A teacher's weights are left out if
            ``cfg`` names their checkpoint.
        cfg: Config of the run.
        data_batch: Batch as the data loader hands it over.
        random_state: From
            :func:`~serkd_mm.engine.random_state.get_random_state`, before the
            batch is preprocessed.
        amp: Arguments of :func:`mmengine.runner.autocast` but the device,
            and ``fused_attention`` where it was chosen.
        losses: Names in the order in which they are summed; the text of a
            config has its keys in another.
    """
    content = dict(
        cfg=cfg.pretty_text,
        state_dict=model.state_dict(),
        training={name: m.training for name, m in model.named_modules()},
        data_batch=data_batch,
        random_state=random_state,
        amp=amp,
        losses=losses,
        device=next(model.parameters()).device.type,
    )
    hub = MessageHub.get_current_instance()
    content['progress'] = {name: hub.get_info(name) for name in _PROGRESS}
    if hasattr(model, 'distillation_stopped'):
        content['distillation_stopped'] = model.distillation_stopped
    teacher = getattr(model, 'teacher', None)
    if teacher is not None and not cfg.get('model', {}).get('teacher_ckpt'):
        content['teacher'] = teacher.state_dict()
    save_checkpoint(content, str(path))


def replay(
    path: str | Path,
    model: BaseModel | None = None,
    device: str | None = None,
) -> Replay:
    """Compute the losses of a dump of :class:`NonFiniteHook` again.

    The same numbers come out on the same kind of device with the same
    versions. ``replay(path).loss.backward()`` goes on where training would,
    for instance under :func:`torch.autograd.detect_anomaly`.

    The dump holds pickles and a config, which is code: replay only dumps of
    your own.

    Args:
        path: The dump.
        model: Model to load the state into, by default the one that the
            run's config builds.
        device: ``'cpu'`` or ``'cuda'``, by default the one of the run.

    Returns:
        Losses of the batch, its file names and the model.

    Raises:
        ValueError: If the run had no config to build the model from, and
            none is given.
    """
    dump = torch.load(path, map_location='cpu', weights_only=False)
    device = device or dump['device']
    with kept_random_state(), _progress(dump['progress']):
        model = _restore(model or _build(dump, path), dump).to(device)
        set_random_state(dump['random_state'])
        amp = dict(dump['amp'])
        fused = amp.pop('fused_attention', True)
        with autocast(device, **amp), cpu_attention(fused):
            data = model.data_preprocessor(dump['data_batch'], True)
            raw = model._run_forward(data, mode='loss')
    in_order = {name: raw[name] for name in dump['losses'] if name in raw}
    loss, losses = model.parse_losses({**in_order, **raw})
    values = {name: float(value) for name, value in losses.items()}
    return Replay(loss, values, img_paths(dump['data_batch']), model)


@contextlib.contextmanager
def _progress(values: dict[str, int | None]) -> Iterator[None]:
    """Let losses see the iteration of the run inside."""
    hub = MessageHub.get_current_instance()
    own = {name: hub.get_info(name) for name in values}
    try:
        for name, value in values.items():
            hub.update_info(name, value)
        yield
    finally:
        for name, value in own.items():
            hub.update_info(name, value)


def img_paths(data_batch: Any) -> list[str]:
    """File names of a batch; none for samples that have no file."""
    samples = data_batch.get('data_samples') or ()
    paths = (sample.get('img_path') for sample in samples)
    return [str(path) for path in paths if path is not None]


def _build(dump: dict, path: str | Path) -> BaseModel:
    cfg = Config.fromstring(dump['cfg'], '.py')
    if 'model' not in cfg:
        raise ValueError(
            f'{str(path)!r} is of a run without config; build its model and '
            'hand it over as model='
        )
    if 'teacher' in dump:
        cfg.model.update(teacher_ckpt=None, allow_random_teacher=True)
    return build_model(cfg, 'mmengine')


def _restore(model: BaseModel, dump: dict) -> BaseModel:
    model.load_state_dict(dump['state_dict'])
    if 'teacher' in dump:
        model.teacher.load_state_dict(dump['teacher'])
    if 'distillation_stopped' in dump:
        model.distillation_stopped = dump['distillation_stopped']
    # Some networks keep what they compute of their weights for this mode.
    model.eval()
    for name, module in model.named_modules():
        module.training = dump['training'][name]
    return model
