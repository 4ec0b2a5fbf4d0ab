# Copyright (c) The serkd_mm authors. All rights reserved.
"""A small valid config, ways to spoil it, and runs of what comes out."""

from __future__ import annotations

import copy
import gc
import json
import os
import random
import select
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import mmengine.registry
import mmpretrain.registry
import mmrazor.registry
import torch
from mmengine.config import Config
from mmengine.config import config as mmengine_config
from mmengine.logging import MessageHub
from mmengine.registry import Registry
from mmrazor.registry import MODELS

from serkd_mm.engine.config_checks import check_config
from serkd_mm.engine.data_checks import check_data
from serkd_mm.engine.launch import train

from .models.builders import algorithm_config

CLASSES = 10
TIMEOUT = 60
# Of every type that a config may hold; none is a likely value of any key.
OTHERS = (None, True, -3, 2.5, 'wrong', [], [1, 2, 3], {}, {'wrong': 1})
KINDS = ('drop', 'type', 'width', 'spelling')


class Mutation(NamedTuple):
    """One change of a config.

    Attributes:
        kind: One of KINDS.
        path: Keys and indices that lead to the changed entry.
        value: New value, or new name of the key.
    """

    kind: str
    path: tuple
    value: Any = None

    @property
    def key(self) -> str:
        """The innermost name on the path."""
        return [part for part in self.path if isinstance(part, str)][-1]

    @property
    def name(self) -> str:
        return '.'.join(map(str, self.path))

    def apply(self, cfg: dict) -> dict:
        """The changed config; the given one stays."""
        cfg = copy.deepcopy(cfg)
        owner: Any = cfg
        for part in self.path[:-1]:
            owner = owner[part]
        last = self.path[-1]
        if self.kind == 'drop':
            del owner[last]
        elif self.kind == 'spelling':
            items = [
                (self.value if k == last else k, v) for k, v in owner.items()
            ]
            owner.clear()
            owner.update(items)
        else:
            owner[last] = copy.deepcopy(self.value)
        return cfg


class Outcome(NamedTuple):
    """What became of a run.

    Attributes:
        error: Last line of the traceback; None where training succeeded.
        teacher_loaded: Whether the teacher has the weights of the checkpoint.
        losses: Last value of every loss that was trained on.
    """

    error: str | None
    teacher_loaded: bool = False
    losses: dict[str, float] = {}


def mutations(cfg: dict, count: int, seed: int) -> Iterator[Mutation]:
    """Different changes, the same ones for the same seed."""
    rng = random.Random(seed)
    entries = list(_entries(cfg))
    seen: set[str] = set()
    while len(seen) < count:
        path, value = rng.choice(entries)
        mutation = _mutation(rng, path, value)
        if mutation is not None and repr(mutation) not in seen:
            seen.add(repr(mutation))
            yield mutation


def _entries(value: Any, path: tuple = ()) -> Iterator[tuple[tuple, Any]]:
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, item in items:
        yield (*path, key), item
        yield from _entries(item, (*path, key))


def _mutation(rng: random.Random, path: tuple, value: Any) -> Mutation | None:
    kind = rng.choice(KINDS)
    if kind == 'drop':
        return Mutation(kind, path)
    if kind == 'spelling' and isinstance(path[-1], str):
        return Mutation(kind, path, _misspelt(rng, path[-1]))
    if kind == 'width' and type(value) is int:
        others = {value + 1, value - 1, 2 * value, 0, -value} - {value}
        return Mutation(kind, path, rng.choice(sorted(others)))
    if kind == 'type':
        others = [v for v in OTHERS if type(v) is not type(value)]
        return Mutation(kind, path, rng.choice(others))
    return None


def _misspelt(rng: random.Random, name: str) -> str:
    """A name with one letter missing, doubled or swapped with the next."""
    at = rng.randrange(len(name) - 1)
    pair = name[at : at + 2]
    new = rng.choice((pair[0], pair[0] + pair, pair[::-1]))
    changed = name[:at] + new + name[at + 2 :]
    return changed if changed != name else name[0] + name


def valid_config(folder: Path) -> dict:
    """A ViT of two layers teaches another one a step on ten digits."""
    model = algorithm_config(
        data_preprocessor=dict(
            type='ClsDataPreprocessor',
            num_classes=CLASSES,
            mean=[78.0, 78.0, 78.0],
            std=[92.0, 92.0, 92.0],
        )
    )
    for network in (model['architecture'], model['teacher']):
        network['head']['num_classes'] = CLASSES
        # One to change, not of MMPretrain's two.
        network['head'].pop('init_cfg')
    model['architecture']['train_cfg'] = dict(
        augments=[dict(type='Mixup', alpha=0.8)]
    )
    checkpoint = folder / 'teacher.pth'
    torch.save(MODELS.build(model['teacher']).state_dict(), checkpoint)
    model.update(teacher_ckpt=str(checkpoint), allow_random_teacher=False)
    model['_scope_'] = 'mmrazor'

    def dataloader(split: str, **dataset: Any) -> dict:
        return dict(
            batch_size=10,
            num_workers=0,
            dataset=dict(type='Digits', split=split, **dataset),
            sampler=dict(type='DefaultSampler', shuffle=split == 'train'),
            collate_fn=dict(type='default_collate'),
        )

    crop = dict(type='RandomCrop', crop_size=32, padding=3)
    pack = dict(type='PackInputs')
    return dict(
        default_scope='mmpretrain',
        model=model,
        train_dataloader=dataloader(
            'train', samples_per_class=1, pipeline=[crop, pack]
        ),
        val_dataloader=dataloader('val', indices=10, pipeline=[pack]),
        val_evaluator=dict(type='Accuracy', topk=[1, 5]),
        optim_wrapper=dict(
            type='OptimWrapper',
            optimizer=dict(
                type='AdamW', lr=0.001, weight_decay=0.05, betas=[0.9, 0.99]
            ),
            clip_grad=dict(max_norm=5.0),
            paramwise_cfg=dict(norm_decay_mult=0.0),
        ),
        param_scheduler=[
            dict(type='LinearLR', start_factor=0.5, end=1),
            dict(type='CosineAnnealingLR', T_max=2),
        ],
        train_cfg=dict(by_epoch=True, max_epochs=1, val_interval=1),
        val_cfg=dict(fp16=False),
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=1),
            checkpoint=dict(type='CheckpointHook', interval=1),
        ),
        custom_hooks=[dict(type='EMAHook', momentum=0.01)],
        env_cfg=dict(
            cudnn_benchmark=False,
            mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
        ),
        randomness=dict(seed=0),
        log_level='WARNING',
        load_from=None,
        resume=False,
    )


def import_everything() -> None:
    """Import here what every run would import for itself."""
    for module in (mmengine.registry, mmpretrain.registry, mmrazor.registry):
        for value in vars(module).values():
            if isinstance(value, Registry):
                value.import_from_location()


def run(cfg: dict, folder: Path, name: str) -> Outcome:
    """Build and train in a process of its own, that ends in any case."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receive)
        _silence()
        _hurry()
        try:
            outcome = _train(cfg, folder, name)
        except BaseException as error:
            lines = traceback.format_exception_only(type(error), error)
            last = ''.join(lines).rstrip().splitlines()[-1]
            outcome = Outcome(last)
        os.write(send, json.dumps(outcome).encode()[:60_000])
        os._exit(0)
    os.close(send)
    ready, _, _ = select.select([receive], [], [], TIMEOUT)
    if not ready:
        os.kill(child, signal.SIGKILL)
    with os.fdopen(receive, 'rb') as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    assert ready, f'{name} hangs'
    assert said, f'{name} ended without a word'
    return Outcome(*json.loads(said))


def _silence() -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    sys.stdout = sys.stderr = os.fdopen(null, 'w')


def _hurry() -> None:
    """Leave out what takes most of a run and is not looked at."""
    # The layout of the config's text, which goes to the log and to files.
    mmengine_config.FormatCode = lambda text, **_: (text, True)
    # Whatever was imported stays anyway.
    gc.freeze()


def _train(cfg: dict, folder: Path, name: str) -> Outcome:
    checkpoint = torch.load(folder / 'teacher.pth')
    cfg = Config(copy.deepcopy(cfg))
    cfg.setdefault('work_dir', str(folder / name))
    cfg.setdefault('experiment_name', name)
    check_config(cfg)
    check_data(cfg, ('train_dataloader', 'val_dataloader'))
    model = train(cfg)
    state = model.teacher.state_dict()
    loaded = state.keys() == checkpoint.keys() and all(
        torch.equal(state[key], checkpoint[key]) for key in state
    )
    scalars = MessageHub.get_current_instance().log_scalars
    losses = {
        key[len('train/') :]: float(value.current())
        for key, value in scalars.items()
        if key.startswith('train/') and 'loss' in key
    }
    return Outcome(None, loaded, losses)
