# Copyright (c) The serkd_mm authors. All rights reserved.
"""Checkpoints are read as data: nothing in them runs.

A checkpoint is a pickle, and a pickle may name any function of any installed
package, to be called while it is read. Here it may name what torch needs for
tensors, and what MMEngine's own files need beside them: the log history and
arrays of plain numbers. :func:`install` puts this reader under everything
that MMEngine loads.
"""

from __future__ import annotations

import os
import re
import sys
import tarfile
import uuid
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from types import ModuleType
from typing import Any, BinaryIO
from urllib.parse import urlparse

import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import checkpoint as mmengine_checkpoint

from .. import compat
from ..paths import sha256_of
from .safe_globals import allow_in_torch, load_restricted

# What files begin with that torch.save writes, in the old and new format.
_PICKLE, _ZIP = b'\x80', b'PK'
_HASH = re.compile(r'-([0-9a-f]{8,64})\.pth$')


class UnsafeCheckpointError(UnpicklingError):
    """A checkpoint that asks for more than weights, or is another file."""


def install() -> None:
    """Let all that MMEngine reads as a checkpoint pass through :func:`load`.

    That is ``teacher_ckpt``, ``load_from``, ``resume``, ``init_cfg`` with
    ``Pretrained`` and the models of ``get_model``, local or remote. Calls of
    :func:`torch.load` itself stay as they are; where they load weights only,
    they may read MMEngine's own files too.
    """
    allow_in_torch()
    mmengine_checkpoint.torch = _SafeTorch('torch')
    mmengine_checkpoint.load_url = load_url
    compat.replace_fork_reader(load)


def load(
    file: str | os.PathLike | BinaryIO,
    map_location: Any = None,
    weights_only: bool = True,
) -> Any:
    """Read a checkpoint without running anything that it holds.

    Args:
        file: Path or open binary file. If a path ends in a hash
            (``-0123abcd.pth``), the SHA-256 of the file must start with it.
        map_location: As in :func:`torch.load`.
        weights_only: Taken from callers that pass it and not looked at, as
            nothing runs either way.

    Returns:
        What the file holds.

    Raises:
        FileNotFoundError: If there is no such file.
        UnsafeCheckpointError: If it asks for anything but weights and
            MMEngine's own history, is a program (TorchScript) or a tar
            archive, or has another hash than its name says.
    """
    if not isinstance(file, (str, os.PathLike)):
        return _load(file, map_location, 'the checkpoint')
    path = os.path.expanduser(os.fspath(file))
    if path.endswith('.safetensors'):
        return torch.load(path, map_location, weights_only=True)
    with open(path, 'rb') as opened:
        _verify_hash(opened, path)
        return _load(opened, map_location, path)


def load_url(
    url: str,
    model_dir: str | None = None,
    map_location: Any = None,
    progress: bool = True,
    check_hash: bool = True,
    file_name: str | None = None,
) -> Any:
    """Download a checkpoint, once, and :func:`load` it.

    Stands in for :func:`torch.hub.load_state_dict_from_url`, which may run
    what is in the file. The hash in a name is always checked, whatever
    ``check_hash`` is.

    Raises:
        UnsafeCheckpointError: As :func:`load`. A download whose hash differs
            from its name is not kept.
    """
    folder = Path(model_dir or Path(torch.hub.get_dir(), 'checkpoints'))
    path = folder / (file_name or os.path.basename(urlparse(url).path))
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        sys.stderr.write(f'Downloading {url} to {path}\n')
        # Of this process alone, among all that share the folder.
        partial = folder / f'{uuid.uuid4().hex}-{path.name}'
        try:
            torch.hub.download_url_to_file(url, str(partial), None, progress)
            with open(partial, 'rb') as opened:
                _verify_hash(opened, str(path), source=url)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    return load(path, map_location)


def _verify_hash(file: BinaryIO, name: str, source: str | None = None) -> None:
    """Compare a file with the hash in its name, if there is one."""
    match = _HASH.search(name)
    if match is None:
        return
    digest = sha256_of(file)
    file.seek(0)
    if not digest.hexdigest().startswith(match[1]):
        raise UnsafeCheckpointError(
            f'{source or name} was refused: by its name its SHA-256 starts '
            f'with {match[1]}, but it is {digest.hexdigest()}. Get the file '
            'again; if that part of the name is no hash of it (a date, or the '
            "published_keys of MMEngine's CheckpointHook), rename it"
        )


def _load(file: BinaryIO, map_location: Any, name: str) -> Any:
    _refuse_others(file, name)
    # Made, a history has MMEngine's own functions; the class alone has none.
    statistics = dict(HistoryBuffer()._statistics_methods)
    try:
        if hasattr(torch.serialization, 'get_unsafe_globals_in_checkpoint'):
            content = torch.load(file, map_location, weights_only=True)
        else:
            content = load_restricted(file, map_location)
    except UnpicklingError as error:
        reason = _reason(file, str(error))
        raise UnsafeCheckpointError(f'{name} was refused: {reason}') from None
    finally:
        # A history brings functions that every other one would compute with.
        HistoryBuffer._statistics_methods.clear()
        HistoryBuffer._statistics_methods.update(statistics)
    meta = content.get('meta') if isinstance(content, dict) else None
    if isinstance(meta, dict):
        # Runner.resume runs this text, which MMEngine itself never writes.
        meta.pop('config', None)
    return content


def _refuse_others(file: Any, name: str) -> None:
    """Refuse what is no checkpoint, or is read in other, less strict ways."""
    start = file.read(8)
    zipped = zipfile.is_zipfile(file)
    kind = None
    if zipped and _is_torchscript(file):
        kind = 'it is a TorchScript program, which torch.jit.load reads'
    elif _is_tar(file):
        kind = 'it is a tar archive, the format of torch before 0.2'
    elif start[:2] == _ZIP and not zipped:
        kind = 'it is damaged, its end is missing'
    elif not start:
        kind = 'it is empty (0 bytes), as a download that was broken off'
    elif start[:1] != _PICKLE and start[:2] != _ZIP:
        kind = f'it is no checkpoint, it begins with {start!r}'
    file.seek(0)
    if kind:
        raise UnsafeCheckpointError(f'{name} was refused: {kind}')


def _is_torchscript(file: Any) -> bool:
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
    return any(name.split('/', 1)[-1] == 'constants.pkl' for name in names)


def _is_tar(file: Any) -> bool:
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode='r:') as archive:
            return archive.next() is not None
    except tarfile.TarError:
        return False


def _reason(file: BinaryIO, message: str) -> str:
    """What a file asks for, and how to allow it on purpose."""
    blocked = re.search(r'GLOBAL (\S+) whose module \S+ is blocked', message)
    if blocked:
        return (
            f'it asks for {blocked[1]}, which can do anything on this machine '
            'and cannot be allowed'
        )
    asked = re.search(r'GLOBAL (\S+) was not an allowed', message)
    if not asked:
        message = message.split('WeightsUnpickler error:')[-1]
        return message.split('Check the documentation')[0].strip()
    names = ', '.join(_unsafe_globals(file) or [asked[1]])
    newer = (
        ''
        if hasattr(torch.serialization, 'add_safe_globals')
        else (', with torch >= 2.6')
    )
    return (
        f'beside weights it asks for {names}, and what a file asks for runs '
        'while it is read. If you trust where the file comes from, allow it '
        'on purpose, in a module that custom_imports names: '
        f'torch.serialization.add_safe_globals([{names}]){newer}'
    )


def _unsafe_globals(file: BinaryIO) -> list[str]:
    """All names that are not allowed, where torch can list them."""
    file.seek(0)
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except (AttributeError, ValueError, RuntimeError, UnpicklingError):
        # An older torch, or a file of an older format.
        return []
    return sorted(names)


class _SafeTorch(ModuleType):
    """torch, as MMEngine's reader of checkpoints sees it."""

    load = staticmethod(load)

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)
