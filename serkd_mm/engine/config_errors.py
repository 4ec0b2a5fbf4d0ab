# Copyright (c) The serkd_mm authors. All rights reserved.
"""Errors of a run that name the part of the config that they come from."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from mmengine.config import Config
from mmengine.runner import BaseLoop, FlexibleRunner, Runner
from torch import nn

RUNNERS = (Runner, FlexibleRunner)
MAX_SHOWN = 400


@contextmanager
def config_errors(cfg: Config) -> Iterator[None]:
    """Let the last line of an error name the config key that led to it.

    Most messages of the libraries below name neither key nor module. Where a
    config was being built when the error was raised, or a module ran that the
    config describes, the path and the values of that part are added. Type,
    message and traceback stay as they are.

    Args:
        cfg: Config that is built and run inside the block.
    """
    original = cfg.to_dict()
    try:
        yield
    except FloatingPointError:
        # Of the numbers of a training, which no key is to blame for.
        raise
    except Exception as error:
        path = _locate(error, original)
        noted = error if path is None else _add(error, path, original)
        if noted is error:
            raise
        raise noted from error


def _locate(error: Exception, cfg: dict) -> tuple | None:
    """Path of the config's part that an error comes from."""
    frames = list(_frames(error))
    model = next(filter(None, map(_model_of, frames)), None)
    for frame in reversed(frames):
        block = frame.f_locals.get('cfg')
        if frame.f_code.co_name.startswith('build') and block is not None:
            paths = _find(cfg, block)
        elif isinstance(frame.f_locals.get('self'), nn.Module):
            paths = _module_path(frame.f_locals['self'], model, cfg)
        else:
            paths = []
        paths = paths or _common(_find_locals(frame, cfg))
        if paths:
            return paths[0]
    return None


def _frames(error: BaseException) -> Iterator[FrameType]:
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame
        trace = trace.tb_next


def _model_of(frame: FrameType) -> nn.Module | None:
    """The model of the runner whose method a frame is in."""
    owner = frame.f_locals.get('self')
    if isinstance(owner, BaseLoop):
        owner = owner.runner
    if not isinstance(owner, RUNNERS):
        return None
    model = getattr(owner, 'model', None)
    return getattr(model, 'module', model)


def _module_path(
    module: nn.Module, model: nn.Module | None, cfg: dict
) -> list[tuple]:
    """Part of the config that describes a module of the model."""
    if model is None:
        return []
    networks = {'': model, 'teacher.': getattr(model, 'teacher', None)}
    for prefix, network in networks.items():
        if not isinstance(network, nn.Module):
            continue
        for name, candidate in network.named_modules():
            if candidate is module:
                return [_existing(cfg, f'model.{prefix}{name}'.split('.'))]
    return []


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


def _find_locals(frame: FrameType, cfg: dict) -> list[tuple]:
    """Parts of the config that a function is at work on.

    Arguments count for the runner's own functions only: elsewhere they are
    settings that need not have to do with the error.
    """
    own = isinstance(frame.f_locals.get('self'), RUNNERS)
    arguments = set() if own else set(inspect.getargs(frame.f_code).args)
    return [
        path
        for name, value in frame.f_locals.items()
        if name not in arguments and isinstance(value, (dict, list)) and value
        for path in _find(cfg, value)[:1]
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


def _common(paths: list[tuple]) -> list[tuple]:
    """The innermost path, or what several innermost ones share."""
    ends = [
        path
        for path in paths
        if not any(o != path and o[: len(path)] == path for o in paths)
    ]
    if not ends:
        return []
    shared = ends[0]
    for path in ends[1:]:
        same = [a == b for a, b in zip(shared, path)] + [False]
        shared = shared[: same.index(False)]
    return [shared] if shared else []


def _add(error: Exception, path: tuple, cfg: dict) -> Exception:
    message = str(error.args[0] if isinstance(error, KeyError) else error)
    name = '.'.join(map(str, path))
    if name in message:
        return error
    block: Any = cfg
    for key in path:
        block = block[key]
    values = repr(block)
    if len(values) > MAX_SHOWN:
        values = f'{values[:MAX_SHOWN]}...'
    noted = f'{message.rstrip()} [config: {name} = {values}]'
    error.args = (noted,)
    if name in str(error):
        return error
    # Some exceptions do not make their text of their arguments.
    return RuntimeError(f'{type(error).__name__}: {noted}')
