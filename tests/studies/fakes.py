# Copyright (c) The serkd_mm authors. All rights reserved.
"""Studies whose trainings are a few lines of Python."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serkd_mm.studies.process import Launcher
from serkd_mm.studies.study import Study, load_study

# What MMEngine leaves behind, without training. A config says what happens:
# `top1` per epoch, to which the seed is added; `needs`, a file without which
# the training fails.
TRAINER = """
import json, os, pathlib, sys, time
config = pathlib.Path(sys.argv[1])
cfg = {}
exec(config.read_text(), cfg)
folder = config.parent
with (pathlib.Path(cfg['notes']) / 'starts').open('a') as file:
    print(json.dumps(dict(
        folder=str(folder), arguments=sys.argv[2:], port=os.environ['PORT'],
        teacher=cfg['model'].get('teacher_ckpt'))), file=file)
if cfg.get('sleeps'):
    print('sleeping', flush=True)
    time.sleep(60)
if cfg.get('meets'):
    deadline = time.time() + 20
    (folder / 'here').touch()
    while len(list(folder.parents[1].glob('*/*/here'))) < 2:
        assert time.time() < deadline, 'nobody came'
        time.sleep(0.01)
if not os.path.exists(cfg.get('needs', '/')):
    print('first line')
    sys.exit('ValueError: it lacks ' + cfg['needs'])
resumed = '--resume' in sys.argv
data = folder / ('2_resumed' if resumed else '1_started') / 'vis_data'
data.mkdir(parents=True)
epochs = list(enumerate(cfg['top1'], 1))[1 if resumed else 0:]
(data / 'scalars.json').write_text(''.join(
    json.dumps({'loss': 1.0, 'step': 7}) + chr(10)
    + json.dumps({'accuracy/top1': v + cfg['seed'], 'step': e}) + chr(10)
    for e, v in epochs))
(folder / 'epoch_2.pth').write_text('weights of ' + folder.name)
(folder / 'last_checkpoint').write_text(str(folder / 'epoch_2.pth'))
"""


@dataclass
class FakeLauncher(Launcher):
    """Runs the trainer above in the place of ``train.py``."""

    def command(self, config: Path, resume: bool = False) -> list[str]:
        command = super().command(config, resume)
        return [sys.executable, '-c', TRAINER, *command[4:]]


def launcher(*arguments: str) -> FakeLauncher:
    return FakeLauncher(Path('tools'), arguments=arguments)


def write_config(folder: Path, name: str, **settings: Any) -> None:
    settings = {
        'model': {'type': 'Fake'},
        'train_cfg': {'max_epochs': 2},
        'top1': [50.0, 60.0],
        'seed': 0,
        'notes': str(folder),
        **settings,
    }
    lines = [f'{key} = {value!r}\n' for key, value in settings.items()]
    (folder / f'{name}.py').write_text(''.join(lines))


def write_study(folder: Path, *names: str, **settings: Any) -> Study:
    """A study of configs in the same folder, with two seeds."""
    content = {
        'title': 'A study',
        'seeds': [1, 2],
        'seed_keys': ['seed'],
        'experiments': [{'name': n, 'config': f'{n}.py'} for n in names],
        **settings,
    }
    path = folder / 'fake.yml'
    # JSON is YAML.
    path.write_text(json.dumps(content))
    return load_study(path)


def starts(folder: Path) -> list[dict]:
    """What the trainings of the study have noted, in their order."""
    path = folder / 'starts'
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def started(folder: Path) -> list[str]:
    """Experiment and folder of the trainings, in their order."""
    paths = [Path(start['folder']) for start in starts(folder)]
    return [f'{path.parent.name}/{path.name}' for path in paths]
