# Copyright (c) The serkd_mm authors. All rights reserved.
"""What a checkpoint may name beside tensors, and what it gets for it."""

from __future__ import annotations

import pickle
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from types import SimpleNamespace
from typing import Any, BinaryIO

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.optim import OneCycleParamScheduler

_NUMBERS = [
    'b1',
    'i1',
    'i2',
    'i4',
    'i8',
    'u1',
    'u2',
    'u4',
    'u8',
    'f2',
    'f4',
    'f8',
]
_STATISTICS = ('current', 'max', 'mean', 'min')
_ANNEALING = ('_annealing_cos', '_annealing_linear')


def allow_in_torch() -> None:
    """Let torch read MMEngine's own files where it loads weights only.

    Does nothing on torch < 2.6, which cannot be told of stand-ins; see
    :func:`load_restricted`.
    """
    if hasattr(torch.serialization, 'get_unsafe_globals_in_checkpoint'):
        torch.serialization.add_safe_globals(
            [(value, name) for name, value in allowed_globals().items()]
        )


def allowed_globals() -> dict[str, Any]:
    """Names that MMEngine's files hold, and what stands for each.

    A stand-in wherever the real thing can do more than those files need:
    ``getattr`` reads any attribute, ``numpy.ndarray`` and ``numpy.dtype``
    take bytes of the file for addresses of objects.
    """
    allowed: dict[str, Any] = {
        'mmengine.logging.history_buffer.HistoryBuffer': HistoryBuffer,
        'builtins.getattr': _attribute,
        'builtins.bytes': _no_bytes,
        '_codecs.encode': _latin1,
        f'{OneCycleParamScheduler.__module__}.OneCycleParamScheduler': (
            _OneCycle
        ),
        'numpy.dtype': _number_type,
        'numpy.ndarray': _ArrayType,
    }
    for package in ('numpy.core', 'numpy._core'):
        allowed[f'{package}.multiarray._reconstruct'] = _array
        allowed[f'{package}.multiarray.scalar'] = _number
    # torch sets the state of an array or type if its class is among the
    # values. A name with a line break is one that no pickle can spell.
    kinds: list[type] = [type(np.dtype(code)) for code in _NUMBERS]
    for kind in (np.ndarray, *kinds):
        allowed[f'\n{kind.__name__}'] = kind
    return allowed


def load_restricted(file: BinaryIO, map_location: Any = None) -> Any:
    """``torch.load(weights_only=True)`` for torch < 2.6.

    Its own reader of weights takes no stand-ins. This one takes the names
    that it allows and those of :func:`allowed_globals`.

    Raises:
        pickle.UnpicklingError: If the file names anything else.
    """
    module: Any = SimpleNamespace(
        __name__='restricted_pickle',
        Unpickler=_RestrictedUnpickler,
        load=lambda *args, **kwargs: _RestrictedUnpickler(
            *args, **kwargs
        ).load(),
    )
    return torch.load(file, map_location, module, weights_only=False)


# The one in Python: that in C takes no other way to set states.
_Unpickler: Any = pickle._Unpickler


class _RestrictedUnpickler(_Unpickler):
    dispatch = dict(_Unpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        from torch import _weights_only_unpickler as weights_only

        # torch.save writes names as Python 2 had them.
        module, name = NAME_MAPPING.get((module, name), (module, name))
        path = f'{IMPORT_MAPPING.get(module, module)}.{name}'
        for known in (allowed_globals(), weights_only._get_allowed_globals()):
            if path in known:
                return known[path]
        raise pickle.UnpicklingError(f'GLOBAL {path} was not an allowed one')

    def load_build(self) -> None:
        # pickle itself would set attributes of classes and functions too.
        kinds = [torch.Tensor, torch.nn.Parameter, OrderedDict]
        if type(self.stack[-2]) not in (*kinds, *allowed_globals().values()):
            raise pickle.UnpicklingError(
                f'it sets the state of a {type(self.stack[-2]).__name__}'
            )
        super().load_build()

    dispatch[pickle.BUILD[0]] = load_build


class _OneCycle:
    """Stand-in for the scheduler: the owner of :data:`_ANNEALING`."""

    def __new__(cls, *args: Any) -> Any:
        raise pickle.UnpicklingError('it makes a scheduler')


def _attribute(owner: type, name: str) -> Any:
    """Stand-in for ``getattr``: functions that MMEngine's states hold."""
    if owner is _OneCycle and name in _ANNEALING:
        return getattr(OneCycleParamScheduler, name)
    if owner is not HistoryBuffer or name not in _STATISTICS:
        raise pickle.UnpicklingError(
            f'it asks for the attribute {name!r} of {owner!r}; only '
            f'{", ".join(_STATISTICS)} of HistoryBuffer are allowed'
        )
    return getattr(HistoryBuffer, name)


def _no_bytes() -> bytes:
    """Stand-in for ``bytes``: the data of an empty array."""
    return b''


def _latin1(text: str, encoding: str) -> bytes:
    """Stand-in for ``encode``: bytes, which the pickles hold as text."""
    if encoding != 'latin1':
        raise pickle.UnpicklingError(f'it encodes text as {encoding!r}')
    return text.encode('latin1')


def _number_type(code: str, align: bool = False, copy: bool = True) -> Any:
    """Stand-in for ``numpy.dtype``: plain numbers in this byte order.

    It gives NumPy's own instances, whose state cannot be set. A copy could
    be told that its items are somewhere else in memory.
    """
    if code not in _NUMBERS:
        raise pickle.UnpicklingError(
            f'it holds an array of type {code!r}; only numbers are allowed'
        )
    return np.dtype(code)


class _ArrayType:
    """Stand-in for ``numpy.ndarray``: a name for :func:`_array`."""

    def __new__(cls, *args: Any) -> Any:
        raise pickle.UnpicklingError(
            'it makes an array of memory, which is more than a state of '
            'numbers'
        )


def _array(owner: Any, shape: Any, code: Any) -> np.ndarray:
    """Stand-in for ``_reconstruct``: an array for a state to fill."""
    return np.ndarray((0,), np.int8)


def _number(kind: np.dtype, data: bytes) -> Any:
    """Stand-in for ``scalar``: a number from its bytes."""
    (number,) = np.frombuffer(data, kind)
    return number
