# Copyright (c) The serkd_mm authors. All rights reserved.
"""From a distillation checkpoint to a plain MMPretrain student."""

from __future__ import annotations

import copy
import hashlib
import os
from pathlib import Path
from typing import Any

import mmpretrain
import torch
from mmengine.config import Config, ConfigDict
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, DefaultScope
from mmengine.runner import CheckpointLoader, find_latest_checkpoint
from mmpretrain.registry import DATASETS
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS
from mmrazor.registry import MODELS

_STUDENT = 'architecture.'


def export_student(source: str, out: str) -> tuple[Path, Path]:
    """Write the student of a run as MMPretrain keeps its models.

    The weights are those of the averaged model where the run has one. The
    config beside them is the run's own with the student as its model, ready
    for testing and fine-tuning with MMPretrain; a :class:`DeiTDistillHead`
    becomes MMPretrain's ``DeiTClsHead``, which has the same parameters and
    predictions. Both files are written only after the exported student gave
    bit for bit the logits of the trained one.

    Args:
        source: Checkpoint, or work directory whose latest one is taken.
        out: Path to write to, ``.pth``. The first eight digits of the file's
            SHA-256 are added to the name, as in MMPretrain's model zoo.

    Returns:
        Paths of the checkpoint and of the config.

    Raises:
        FileNotFoundError: If there is no checkpoint.
        ValueError: If the checkpoint holds no student, or ``out`` does not
            end in ``.pth``.
        RuntimeError: If the exported student computes something else.
    """
    target = Path(out)
    if target.suffix != '.pth':
        raise ValueError(f'the student is written to a .pth file, got {out!r}')
    path = find_checkpoint(source)
    checkpoint = CheckpointLoader.load_checkpoint(path, map_location='cpu')
    weights = _student_weights(checkpoint.get('state_dict', {}), path)
    run = _run_config(checkpoint, path)
    student = {'state_dict': weights, 'meta': _student_meta(checkpoint)}

    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f'.{target.stem}-{os.getpid()}.pth')
    config = temporary.with_suffix('.py')
    try:
        torch.save(student, temporary)
        config.write_text(_student_config(run).pretty_text)
        _check_logits(run, weights, config, temporary)
        digest = hashlib.sha256(temporary.read_bytes()).hexdigest()[:8]
        final = target.with_name(f'{target.stem}-{digest}.pth')
        os.replace(config, final.with_suffix('.py'))
        os.replace(temporary, final)
    finally:
        for leftover in (temporary, config):
            leftover.unlink(missing_ok=True)
    return final, final.with_suffix('.py')


def find_checkpoint(source: str) -> str:
    """Path of a checkpoint, or of the latest one of a work directory.

    Raises:
        FileNotFoundError: If there is none.
    """
    if os.path.isdir(source):
        latest = find_latest_checkpoint(source)
        if latest is None or not os.path.isfile(latest):
            raise FileNotFoundError(
                f'{source!r} has no last_checkpoint that exists; name a '
                'checkpoint file'
            )
        return latest
    if '://' not in source and not os.path.isfile(source):
        raise FileNotFoundError(f'checkpoint {source!r} does not exist')
    return source


def _student_weights(state_dict: dict, path: str) -> dict:
    weights = {
        key[len(_STUDENT) :]: value
        for key, value in state_dict.items()
        if key.startswith(_STUDENT)
    }
    if not weights:
        raise ValueError(
            f'{path!r} holds no student: no key starts with {_STUDENT!r}, the '
            f'first ones are {list(state_dict)[:3]}'
        )
    return weights


def _run_config(checkpoint: dict, path: str) -> Config:
    text = checkpoint.get('meta', {}).get('cfg')
    if not text:
        raise ValueError(
            f'{path!r} does not hold the config of its run (meta.cfg), which '
            'checkpoints of training runs do'
        )
    return Config.fromstring(text, '.py')


def _student_config(cfg: Config) -> Config:
    """The run's config with the student as its model."""
    exported = copy.deepcopy(dict(cfg))
    for name in ('work_dir', 'load_from', 'resume', 'launcher'):
        exported.pop(name, None)
    wrapper = exported.get('optim_wrapper') or {}
    if wrapper.get('constructor') == 'MergedOptimWrapperConstructor':
        # MMEngine's default makes other groups of the same settings.
        wrapper.pop('constructor')
    for name, hook in list((exported.get('default_hooks') or {}).items()):
        exported['default_hooks'][name] = _host_hook(hook)
    hooks = [_host_hook(h) for h in exported.pop('custom_hooks', None) or ()]
    # There is no distillation to stop.
    kept = [
        h for h in hooks if h and not h['type'].endswith('StopDistillHook')
    ]
    if kept:
        exported['custom_hooks'] = kept
    model = student_architecture(cfg)
    model.pop('_scope_', None)
    head = model.get('head')
    if head and head['type'] == 'DeiTDistillHead':
        head['type'] = 'DeiTClsHead'
        head.pop('label_dist_head', None)
    exported['model'] = model
    student = Config(_host_datasets(exported))
    if not _names_own_class(student.pretty_text):
        student.pop('custom_imports', None)
    return student


def _host_datasets(value: Any) -> Any:
    """A config whose images are loaded by MMPretrain's own classes."""
    if isinstance(value, (list, tuple)):
        return [_host_datasets(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get('type') == 'SkipBrokenImages':
        return _host_datasets(value['dataset'])
    items = {key: _host_datasets(item) for key, item in value.items()}
    if items.get('type') == 'LoadCheckedImage':
        items['type'] = 'LoadImageFromFile'
    return items


def _host_hook(hook: dict | None) -> dict | None:
    """The hook that one of this package extends; None if there is none."""
    if hook is None:
        return None
    cls = HOOKS.get(hook['type'])
    if cls is None or not cls.__module__.startswith('serkd_mm.'):
        return hook
    host = next(
        base
        for base in cls.__mro__
        if not base.__module__.startswith('serkd_mm.')
    )
    return None if host is Hook else {**hook, 'type': host.__name__}


def student_architecture(cfg: Config) -> ConfigDict:
    """The student's config with the preprocessing that it was trained with.

    In the order of precedence that training has: the student's own, the
    algorithm's, the config's.
    """
    model = copy.deepcopy(cfg.model)
    student = model.architecture
    for preprocessor in (
        model.get('data_preprocessor'),
        cfg.get('data_preprocessor'),
    ):
        if preprocessor is not None:
            student.setdefault('data_preprocessor', preprocessor)
    return student


def _names_own_class(text: str) -> bool:
    """Whether a config needs this package to be imported."""
    names = [
        name
        for registry in (MMPRETRAIN_MODELS, DATASETS)
        for name, value in registry.module_dict.items()
        if value.__module__.startswith('serkd_mm.')
    ]
    return any(f"'{name}'" in text for name in names)


def _student_meta(checkpoint: dict) -> dict[str, Any]:
    meta = checkpoint.get('meta', {})
    return {k: meta[k] for k in ('dataset_meta', 'epoch', 'iter') if k in meta}


@torch.no_grad()
def _check_logits(
    cfg: Config, weights: dict, config: Path, checkpoint: Path
) -> None:
    """Compare the trained and the exported student on random pixels."""
    trained = student_architecture(cfg)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        expected: Any = MODELS.build(trained).eval()
    expected.load_state_dict(weights)
    actual = mmpretrain.get_model(str(config), str(checkpoint)).eval()
    size = getattr(expected.backbone, 'img_size', 224)
    height, width = (size, size) if isinstance(size, int) else size
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, 3, height, width), generator=generator)
    logits = [
        model(model.data_preprocessor({'inputs': pixels})['inputs'])
        for model in (expected, actual)
    ]
    if not torch.equal(*logits):
        gap = (logits[0] - logits[1]).abs().max()
        raise RuntimeError(
            'the exported student does not compute what the trained one '
            f'does: logits differ by up to {gap:.3g}; nothing was written'
        )
