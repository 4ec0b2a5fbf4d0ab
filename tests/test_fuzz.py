# Copyright (c) The serkd_mm authors. All rights reserved.
"""Spoilt configs end in an error that names the spoilt place, or train.

Each of the changes is built and trained for a step in a process of its own.
Training may succeed where the changed config is one that a user may want:
with a key left out that has a default, or a value of :data:`ACCEPTED`. Then
the teacher must have the checkpoint's weights and all losses be there.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from mmengine.registry import DefaultScope

from .fuzzing import Mutation, Outcome, mutations, run, valid_config
from .fuzzing import import_everything as _import_everything
from .jobs import SERKD_LOSSES

SEED = 0
COUNT = 500
PARTS = 10
# Changed values (not spellings, of which none is) that make another valid
# config, and why. True counts as the number 1.
ACCEPTED = {
    r'.* True': 'a boolean is the integer 0 or 1',
    r'env_cfg\.cudnn_benchmark .*': 'true or not',
    r'.*_dataloader\.sampler\.shuffle .*': 'true or not',
    r'train_cfg\.by_epoch (2\.5|\[1, 2, 3\]|-3|.wrong.|.*1})': 'true',
    r'.*data_preprocessor\.(mean|std)(\.\d)? (-3|2\.5)': 'numbers',
    r'param_scheduler\.\d\.(end|T_max) .*': 'numbers; none: to the end',
    r'.*clip_grad\.max_norm .*': 'a number',
    r'optim_wrapper\.paramwise_cfg (None|\{\})': 'none',
    r'default_hooks None': 'the defaults of the host',
    r'(custom_hooks|param_scheduler|val_evaluator) (None|\[\])': 'none',
    r'.*samples_per_class None': 'all of them',
    r'.*padding (None|\d)': 'none, or another',
    r'.*superpixels\.1\.norm None': 'tokens as they are',
    r'default_hooks\.\w+\.interval -?\d+': 'rarely, or never',
    r'train_cfg\.(max_epochs|val_interval) [1-9.]+': 'longer, rarely',
    r'.*\.(batch_size|indices|crop_size|samples_per_class) \d+': 'sizes',
    r'.*\.(num_workers|opencv_num_threads) -?\d+': 'processes, threads',
    r'randomness\.seed \d+': 'another seed',
    r'val_evaluator\.topk\.\d .*': 'ranks of labels',
    r'.*architecture\.backbone\.img_size \d+': 'embeddings are resized',
    r'.*architecture\.backbone\.arch\.(num_layers|num_heads) \d+': 'a student',
    r'.*backbone\.arch\.feedforward_channels \d+': 'another student',
    r'.*teacher\.backbone\.img_size 31': 'as many patches as 32',
    # Nothing in a checkpoint tells; the accuracy of the teacher does.
    r'.*teacher\.backbone\.arch\.num_heads \d': 'weights of the same shapes',
}


@pytest.fixture(scope='module')
def valid(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[dict, Path]]:
    """The valid config, and the folder of its teacher."""
    folder = tmp_path_factory.mktemp('fuzz')
    _import_everything()
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield valid_config(folder), folder


@pytest.fixture(scope='module')
def counts() -> Iterator[Counter]:
    """How many changes ended how; ``pytest -s`` shows it."""
    found: Counter = Counter()
    yield found
    print(f'\n{sum(found.values())} changes: {dict(found)}')


def named_place(line: str, mutation: Mutation) -> str | None:
    """Whether a line names the changed key or the block that it is in.

    The block beside it counts too, as the width of a backbone that does not
    fit shows in its head; ``model`` alone does not count.
    """
    words = [mutation.key]
    if mutation.kind == 'spelling':
        words.append(mutation.value)
    if any(re.search(rf'\b{re.escape(word)}\b', line) for word in words):
        return 'key named'
    for block in re.findall(r'\w+(?:\.\w+)*', line.split('[config: ')[-1]):
        around = {block, block.rpartition('.')[0]} - {'model', ''}
        if any(mutation.name.startswith(f'{name}.') for name in around):
            return 'block named'
    return None


def legitimate(outcome: Outcome, mutation: Mutation) -> bool:
    """Whether a training that succeeded was one that may."""
    text = f'{mutation.name} {mutation.value!r}'
    accepted = mutation.kind == 'drop' or (
        mutation.kind != 'spelling'
        and any(re.fullmatch(known, text) for known in ACCEPTED)
    )
    values = outcome.losses.values()
    return (
        accepted
        and outcome.teacher_loaded
        and outcome.losses.keys() == SERKD_LOSSES
        and all(math.isfinite(value) for value in values)
    )


def test_the_config_that_is_spoilt_is_valid(valid: tuple[dict, Path]) -> None:
    cfg, folder = valid
    outcome = run(cfg, folder, 'valid')

    assert outcome.error is None
    assert outcome.teacher_loaded
    assert outcome.losses.keys() == SERKD_LOSSES


@pytest.mark.slow
@pytest.mark.parametrize('part', range(PARTS))
def test_a_spoilt_config_is_named_or_trains_with_the_right_teacher(
    part: int, valid: tuple[dict, Path], counts: Counter
) -> None:
    cfg, folder = valid
    changes = list(mutations(cfg, COUNT, SEED))[part::PARTS]
    assert len(changes) == COUNT // PARTS
    faults = []
    for index, mutation in enumerate(changes):
        outcome = run(mutation.apply(cfg), folder, f'{part}-{index}')
        if outcome.error is not None:
            end = named_place(outcome.error, mutation)
        else:
            end = 'trained' if legitimate(outcome, mutation) else None
        counts[end] += 1
        if end is None:
            faults.append((mutation, outcome))
    assert faults == []
