# Copyright (c) The serkd_mm authors. All rights reserved.
"""Errors of a run that name the part of the config that they come from."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any
from urllib.error import URLError

from mmcv.transforms import LoadImageFromFile
from mmengine.config import Config
from mmengine.runner import (
    BaseLoop,
    FlexibleRunner,
    Runner,
    TestLoop,
    ValLoop,
)
from torch import nn
from torch.utils.data.dataloader import _BaseDataLoaderIter

from ..near_names import asserted, frames_of, near_name
from .downloads import download_error

RUNNERS = (Runner, FlexibleRunner)
MAX_SHOWN = 400
_RUNNER = 'runner.py'
# File of LoadImageFromFile, as in a traceback.
_LOADING = os.path.join('mmcv', 'transforms', 'loading.py')


@contextmanager
def config_errors(cfg: Config) -> Iterator[None]:
    """Let the last line of an error name the config key that led to it.

    Most messages of the libraries below name neither key nor module. Where a
    config was being built when the error was raised, or a module ran that the
    config describes, the path and the values of that part are added, and to
    a misspelt type or argument the one that is nearest. Type and traceback
    stay as they are; an exception whose text does not follow from its
    arguments becomes a ``RuntimeError``. Exceptions of this package's own
    classes are no mistakes in the config and pass as they are.

    Args:
        cfg: Config that is built and run inside the block.

    Raises:
        DownloadError: If something could not be downloaded.
    """
    original = cfg.to_dict()
    try:
        yield
    except FloatingPointError:
        # Of the numbers of a training, which no key is to blame for.
        raise
    except URLError as error:
        urls = [frame.f_locals.get('url') for frame in frames_of(error)]
        url = next((url for url in urls if isinstance(url, str)), None)
        places = _key_of(url, original), _locate(error, original) or ()
        key, part = ('.'.join(map(str, place)) for place in places)
        raise download_error(error, url, key, part) from error
    except Exception as error:
        if type(error).__module__.startswith('serkd_mm.'):
            # Faults of files or numbers, with messages of their own.
            raise
        hint = near_name(error) or _loading_hint(error) or asserted(error)
        if hint:
            said = str(error.args[0]).rstrip() if error.args else ''
            error.args = (f'{said}{hint}',)
        path = _locate(error, original)
        noted = error if path is None else _add(error, path, original)
        if noted is error:
            raise
        raise noted from error


def _locate(error: Exception, cfg: dict) -> tuple | None:
    """Path of the config's part that an error comes from."""
    frames = list(frames_of(error))
    loop = _first(frames[::-1], BaseLoop)
    runner = _first(frames, RUNNERS) or getattr(loop, 'runner', None)
    model = getattr(runner, 'model', None) or _first(frames, nn.Module)
    model = getattr(model, 'module', model)
    for frame in reversed(frames):
        for find in (
            _loader,
            _built,
            _module,
            _part_of_runner,
            _locals,
            _attributes,
        ):
            path = find(frame, cfg, loop, model)
            if path:
                return path
    return None


def _loading_hint(error: Exception) -> str:
    """How to learn which image it was, where the message does not say it."""
    text = str(error.args[0]) if error.args else ''
    if isinstance(error, OSError) or 'failed to load image: ' in text:
        return ''
    inside = any(
        isinstance(frame.f_locals.get('self'), LoadImageFromFile)
        for frame in frames_of(error)
    )
    # Of a worker there is the text of its traceback.
    if not inside and _LOADING not in text:
        return ''
    return (
        "; to have the image named, write dict(type='LoadCheckedImage') "
        'instead of LoadImageFromFile'
    )


def _first(frames: list[FrameType], kind: Any) -> Any:
    """The first object of a kind whose method a frame is in."""
    owners = (frame.f_locals.get('self') for frame in frames)
    return next((owner for owner in owners if isinstance(owner, kind)), None)


def _loader(
    frame: FrameType, cfg: dict, loop: Any, *_: Any
) -> tuple[str, ...]:
    """The data loader whose worker raised, whoever asked for its batch."""
    iterator = frame.f_locals.get('self')
    runner = getattr(loop, 'runner', None)
    if not isinstance(iterator, _BaseDataLoaderIter):
        return ()
    for name in ('train', 'val', 'test'):
        dataloader = getattr(
            getattr(runner, f'_{name}_loop', None), 'dataloader', None
        )
        key = f'{name}_dataloader'
        if key in cfg and iterator._dataset is getattr(
            dataloader, 'dataset', None
        ):
            return (key,)
    return ()


def _built(frame: FrameType, cfg: dict, *_: Any) -> tuple:
    """What a builder is building."""
    if not frame.f_code.co_name.startswith('build'):
        return ()
    return next(iter(_find(cfg, frame.f_locals.get('cfg'))), ())


def _module(frame: FrameType, cfg: dict, _: Any, model: Any) -> tuple:
    """What describes the module that is running."""
    module = frame.f_locals.get('self')
    # While modules are built, some have no list of their parts yet.
    if not isinstance(module, nn.Module) or '_modules' not in vars(model):
        return ()
    networks = {'': model, 'teacher.': getattr(model, 'teacher', None)}
    for prefix, network in networks.items():
        if not isinstance(network, nn.Module):
            continue
        for name, candidate in network.named_modules():
            if candidate is module:
                return _existing(cfg, f'model.{prefix}{name}'.split('.'))
    return ()


def _existing(cfg: Any, names: list[str]) -> tuple:
    """The part of a path that leads to dicts and lists of the config."""
    path: list = []
    for name in names:
        key: Any = int(name) if isinstance(cfg, list) else name
        try:
            cfg = cfg[key]
        except (KeyError, IndexError, TypeError):
            break
        if not isinstance(cfg, (dict, list)):
            break
        path.append(key)
    return tuple(path)


def _part_of_runner(frame: FrameType, cfg: dict, loop: Any, _: Any) -> tuple:
    """What describes the loop, data loader or other object at work."""
    owner = frame.f_locals.get('self')
    kinds = {ValLoop: 'val', TestLoop: 'test', BaseLoop: 'train'}
    name = next((n for k, n in kinds.items() if isinstance(loop, k)), '')
    if owner is loop is not None:
        return (f'{name}_cfg',)
    if owner is getattr(loop, 'dataloader', frame):
        return (f'{name}_dataloader',)
    kind = type(owner).__name__
    blocks = [p for p, part in _parts(cfg, ()) if _type(part) == kind]
    # What is being built has its builder further out.
    built = len(blocks) == 1 and frame.f_code.co_name != '__init__'
    return blocks[0] if built else ()


def _type(part: Any) -> Any:
    return part.get('type') if isinstance(part, dict) else None


def _locals(frame: FrameType, cfg: dict, *_: Any) -> tuple:
    """What a function is at work on.

    Arguments count for functions of the runner only: elsewhere they are
    settings that need not have to do with the error.
    """
    code = frame.f_code
    if code.co_name == '__init__':
        # Of what was built before; what is being built has its builder.
        return ()
    names = set(inspect.getargs(code).args)
    if code.co_filename.endswith(os.path.join('mmengine', 'runner', _RUNNER)):
        path = _shared(_blocks(names, frame.f_locals, cfg))
        part = code.co_name.lstrip('_').replace('build_', '')
        if path or part in cfg:
            return path or (part,)
    return _shared(_blocks(set(frame.f_locals) - names, frame.f_locals, cfg))


def _attributes(frame: FrameType, cfg: dict, *_: Any) -> tuple:
    """What the object at work was made from."""
    owner = frame.f_locals.get('self')
    if owner is None or isinstance(owner, (nn.Module, *RUNNERS)):
        return ()
    values = getattr(owner, '__dict__', {})
    return _shared([p[:-1] for p in _blocks(set(values), values, cfg)])


def _blocks(names: set[str], values: dict, cfg: dict) -> list[tuple]:
    return [
        path for name in names for path in _find(cfg, values.get(name))[:1]
    ]


def _find(cfg: Any, block: Any) -> list[tuple]:
    """Paths of the parts that a block is, or was before keys were added."""
    if not isinstance(block, (dict, list)) or not block:
        return []
    parts = list(_parts(cfg, ()))
    exact = [path for path, part in parts if _equal(part, block)]
    return exact or [path for path, part in parts if _within(part, block)]


def _parts(cfg: Any, path: tuple) -> Iterator[tuple[tuple, Any]]:
    items = cfg.items() if isinstance(cfg, dict) else enumerate(cfg)
    for key, value in items:
        if isinstance(value, (dict, list)) and value:
            yield (*path, key), value
            yield from _parts(value, (*path, key))


def _key_of(text: str | None, cfg: dict) -> tuple:
    """Path of the first value that is a text."""
    for path, part in [((), cfg), *_parts(cfg, ())]:
        items = part.items() if isinstance(part, dict) else enumerate(part)
        for key, value in items:
            if isinstance(value, str) and value == text:
                return (*path, key)
    return ()


def _equal(part: Any, block: Any) -> bool:
    try:
        return type(part) in (type(block), dict, list) and bool(part == block)
    except Exception:  # what a config holds may refuse to be compared
        return False


def _within(part: Any, block: Any) -> bool:
    if isinstance(part, dict) and isinstance(block, dict):
        return all(
            k in block and _within(v, block[k]) for k, v in part.items()
        )
    return _equal(part, block)


def _shared(paths: list[tuple]) -> tuple:
    """The innermost path, or what several innermost ones share."""
    ends = [
        path
        for path in paths
        if not any(o != path and o[: len(path)] == path for o in paths)
    ]
    shared = ends[0] if ends else ()
    for path in ends[1:]:
        same = [a == b for a, b in zip(shared, path)] + [False]
        shared = shared[: same.index(False)]
    return shared


def _add(error: Exception, path: tuple, cfg: dict) -> Exception:
    message = str(error.args[0] if isinstance(error, KeyError) else error)
    name = '.'.join(map(str, path))
    if '.' in name and name in message:
        return error
    note = _show(path, cfg)
    if path[:-1] == ('model', 'distiller', 'distill_losses'):
        # What a loss compares is said elsewhere.
        mapping = ('model', 'distiller', 'loss_forward_mappings', path[-1])
        note = f'{note}, {_show(mapping, cfg)}'
    noted = f'{message.rstrip()} [config: {note}]'
    error.args = (noted,)
    if name in str(error):
        return error
    # Some exceptions do not make their text of their arguments.
    return RuntimeError(f'{type(error).__name__}: {noted}')


def _show(path: tuple, cfg: Any) -> str:
    for key in path:
        cfg = cfg[key]
    values = repr(cfg)
    if len(values) > MAX_SHOWN:
        values = f'{values[:MAX_SHOWN]}...'
    return f'{".".join(map(str, path))} = {values}'
