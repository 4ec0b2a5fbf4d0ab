# Copyright (c) The serkd_mm authors. All rights reserved.
"""From a distillation checkpoint to a plain MMPretrain student."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import mmpretrain
import torch
from mmengine.config import Config
from mmengine.fileio import put
from mmengine.registry import DefaultScope
from mmengine.runner import CheckpointLoader
from mmrazor.registry import MODELS
from torch import nn

from ..paths import is_missing
from .checkpoints import latest_checkpoints
from .config_file import read_config
from .graphs import check_onnx_packages, write_onnx, write_torchscript
from .random_state import kept_random_state
from .run_config import check_registered, read_run_config
from .student_config import image_size, student_architecture, student_config
from .whole_checkpoint import MISFITS, why_misfit

_STUDENT = 'architecture.'


class ExportedStudent(NamedTuple):
    """Files of an exported student, and what the user should know of them."""

    checkpoint: Path
    config: Path
    onnx: Path | None = None
    torchscript: Path | None = None
    notes: tuple[str, ...] = ()


def export_student(
    source: str,
    out: str,
    config: str | Config | None = None,
    onnx: bool = False,
    torchscript: bool = False,
    size: int | None = None,
) -> ExportedStudent:
    """Write the student of a run as MMPretrain keeps its models.

    The weights are those of the averaged model where the run has one. The
    config beside them is the run's own with the student as its model, ready
    for testing and fine-tuning with MMPretrain; a :class:`DeiTDistillHead`
    becomes MMPretrain's ``DeiTClsHead``, which has the same parameters and
    predictions. Files are written only after the exported student gave bit
    for bit the logits of the trained one, the checkpoint last, each complete
    or not at all.

    Args:
        source: Checkpoint, or work directory whose latest one is taken.
        out: Path to write to, ``.pth``. The first eight digits of the file's
            SHA-256 are added to the name, as in MMPretrain's model zoo; the
            other files have the same name with other endings.
        config: Config of the run, or its path. By default the one that the
            checkpoint holds, which is read as data, so that it cannot do more
            than build registered classes.
        onnx: Whether to write the student for ONNX Runtime too, see
            :func:`write_onnx`.
        torchscript: Whether to write a TorchScript program (``.pt``) too, see
            :func:`write_torchscript`.
        size: Height and width of the images of these programs. By default
            those of the backbone, the test pipeline or ``model.input_size``.

    Returns:
        The files that were written.

    Raises:
        FileNotFoundError: If there is no checkpoint.
        ImportError: If packages for ONNX are missing.
        UnsafeCheckpointError: If the file is no plain checkpoint.
        ValueError: If the checkpoint holds no student or not that of the
            config, ``out`` does not end in ``.pth``, or the size of the
            images is unknown or not positive.
        RuntimeError: If something that was exported computes something else.
    """
    target = Path(out)
    if target.suffix != '.pth':
        raise ValueError(f'the student is written to a .pth file, got {out!r}')
    if size is not None and size < 1:
        raise ValueError(f'size must be at least 1 pixel, got {size}')
    if onnx:
        check_onnx_packages()
    path = find_checkpoint(source)
    checkpoint = CheckpointLoader.load_checkpoint(path, map_location='cpu')
    weights = _student_weights(checkpoint, path)
    run = _run_config(config, checkpoint, path)
    student = student_config(run)
    file = io.BytesIO()
    meta = _student_meta(checkpoint)
    torch.save({'state_dict': weights, 'meta': meta}, file)

    digest = hashlib.sha256(file.getvalue()).hexdigest()[:8]
    stem = f'{target.stem}-{digest}'
    notes = []
    with TemporaryDirectory() as folder, kept_random_state():
        parts = [Path(folder, stem + '.py'), Path(folder, stem + '.pth')]
        parts[0].write_text(student.pretty_text, encoding='utf-8')
        parts[1].write_bytes(file.getvalue())
        trained = _trained_student(run, weights, path)
        exported = mmpretrain.get_model(*map(str, parts)).eval()
        shape = (size, size) if size else image_size(exported, run)
        _compare_logits(trained, exported, shape or (224, 224))
        for wanted, ending, write in (
            (onnx, '.onnx', write_onnx),
            (torchscript, '.pt', write_torchscript),
        ):
            if wanted:
                parts.insert(0, Path(folder, stem + ending))
                notes.append(write(exported, parts[0], _known(shape)))
        written = {}
        for part in parts:
            written[part.suffix] = target.with_name(part.name)
            put(part.read_bytes(), str(written[part.suffix]))
    return ExportedStudent(
        written['.pth'],
        written['.py'],
        written.get('.onnx'),
        written.get('.pt'),
        tuple(filter(None, notes)),
    )


def find_checkpoint(source: str) -> str:
    """Path of a checkpoint, or of the latest one of a work directory.

    Raises:
        FileNotFoundError: If there is none.
    """
    if os.path.isdir(source):
        named = latest_checkpoints(source)
        latest = next(filter(os.path.isfile, named), None)
        if latest is None:
            raise FileNotFoundError(
                f'{source!r} has no last_checkpoint that exists; name a '
                'checkpoint file'
            )
        return latest
    if is_missing(source):
        raise FileNotFoundError(f'checkpoint {source!r} does not exist')
    return source


def _student_weights(checkpoint: Any, path: str) -> dict:
    state_dict = checkpoint if isinstance(checkpoint, dict) else {}
    state_dict = state_dict.get('state_dict', state_dict)
    weights = {
        key[len(_STUDENT) :]: value
        for key, value in state_dict.items()
        if str(key).startswith(_STUDENT)
    }
    if not weights:
        raise ValueError(
            f'{path!r} holds no student: no key starts with {_STUDENT!r}, the '
            f'first ones are {list(state_dict)[:3]}; name a checkpoint of a '
            'distillation'
        )
    return weights


def _run_config(
    config: str | Config | None, checkpoint: dict, path: str
) -> Config:
    if isinstance(config, Config):
        return config
    run = read_config(config) if config else None
    if run is None:
        run = read_run_config(checkpoint, path)
    if 'architecture' not in (run.get('model') or {}):
        raise ValueError(
            f'the config {config or "that " + path + " holds"} is not that of '
            'a distillation: it has no model.architecture, the student; name '
            'the config that the checkpoint was trained with'
        )
    if config is None:
        check_registered(student_architecture(run), path)
    return run


def _known(size: tuple[int, int] | None) -> tuple[int, int]:
    if size is None:
        raise ValueError(
            'the size of the images is unknown: neither the backbone, the '
            'test pipeline nor model.input_size says it; name it with --size'
        )
    return size


def _student_meta(checkpoint: dict) -> dict[str, Any]:
    meta = checkpoint.get('meta', {})
    return {k: meta[k] for k in ('dataset_meta', 'epoch', 'iter') if k in meta}


def _trained_student(cfg: Config, weights: dict, path: str) -> nn.Module:
    """The student as the run has it."""
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        student: Any = MODELS.build(student_architecture(cfg))
    try:
        student.load_state_dict(weights)
    except MISFITS as error:
        raise ValueError(
            f'{path} does not belong to its config: {why_misfit(error)}'
        ) from None
    # Not before: some keep what they compute of their weights for this mode.
    return student.eval()


@torch.no_grad()
def _compare_logits(expected: Any, actual: Any, size: tuple[int, int]) -> None:
    """Compare the trained and the exported student on random pixels."""
    pixels = torch.randint(0, 256, (2, 3, *size))
    logits = []
    for model in (expected, actual):
        found = model(model.data_preprocessor({'inputs': pixels})['inputs'])
        sets = [found] if isinstance(found, torch.Tensor) else found
        logits.append(torch.cat([part.flatten() for part in sets]))
    if not torch.equal(*logits):
        gap = (logits[0] - logits[1]).abs().max()
        raise RuntimeError(
            'the exported student does not compute what the trained one '
            f'does: logits differ by up to {gap:.3g}; nothing was written'
        )
