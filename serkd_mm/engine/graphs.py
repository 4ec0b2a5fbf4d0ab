# Copyright (c) The serkd_mm authors. All rights reserved.
"""A classifier as a program that needs no MMPretrain."""

from __future__ import annotations

import contextlib
import copy
import inspect
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .random_state import kept_random_state

# Of the largest logit: other kernels add up in another order.
TOLERANCE = 1e-4
_PACKAGES = ('onnx', 'onnxruntime', 'onnxscript')
_TRACED, _OTHERS = 2, (1, 3)


class PixelClassifier(nn.Module):
    """Pixels to logits: preprocessing and network of a classifier.

    Args:
        model: MMPretrain's classifier.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        preprocess: Any = copy.copy(model.data_preprocessor)
        # Its own would move pixels to the device of this moment for ever.
        preprocess.cast_data = _as_it_is
        self.preprocess = preprocess
        # With its parts: exporters restore the mode that they find here.
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        """Classify.

        Args:
            pixels: As the config's test pipeline packs them (OpenMMLab's
                loads BGR), 0 to 255, ``(B, 3, H, W)``, any dtype.

        Returns:
            Logits, ``(B, num_classes)``.
        """
        return self.model(self.preprocess({'inputs': pixels})['inputs'])


def _as_it_is(data: Tensor) -> Tensor:
    return data


def check_onnx_packages() -> None:
    """Say what is missing before anything is computed.

    Raises:
        ImportError: If a package for ONNX is not installed.
    """
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise ImportError(
            f'exporting to ONNX needs {", ".join(missing)}; install the extra '
            "'export' of serkd_mm: pip install 'serkd_mm[export]', or pip "
            'install .[export] in a checkout'
        )


def write_onnx(
    model: nn.Module, path: Path, size: tuple[int, int]
) -> str | None:
    """Write a classifier for ONNX Runtime.

    The input ``pixels`` is that of :class:`PixelClassifier` in float32, the
    output is ``logits``. Batches may have any size, unless the network
    computes with the batch size outside the graph, as shifted windows do:
    such a graph refuses other sizes, or gives other logits without a word, so
    it is written for single images.

    Args:
        model: MMPretrain's classifier, on the CPU.
        path: File to write.
        size: Height and width of the images.

    Returns:
        None, or what the user should know.

    Raises:
        ImportError: If a package for ONNX is not installed.
        RuntimeError: If the logits of ONNX Runtime are not PyTorch's.
        ValueError: If the network has several outputs.
    """
    check_onnx_packages()
    import onnxruntime

    def load(path: Path) -> Callable[[Tensor], Tensor]:
        session = onnxruntime.InferenceSession(
            str(path), providers=['CPUExecutionProvider']
        )

        def run(pixels: Tensor) -> Tensor:
            (logits,) = session.run(None, {'pixels': pixels.numpy()})
            return torch.from_numpy(logits)

        return run

    with kept_random_state(), torch.no_grad():
        classifier = _one_output(model, size)
        pixels = _random(_TRACED, size)
        # What is no matter of the batch size is raised below again.
        with contextlib.suppress(Exception):
            _export_onnx(classifier, path, pixels, dynamic=True)
            gap = _gap(classifier, load(path), size, (_TRACED, *_OTHERS))
            if gap <= TOLERANCE:
                return None
        _export_onnx(classifier, path, _random(1, size), dynamic=False)
        gap = _gap(classifier, load(path), size, (1,))
    if gap > TOLERANCE:
        raise _other_logits('ONNX Runtime', gap)
    return (
        f'{path.name} takes one image at a time: with a free batch size '
        'ONNX Runtime computes something else for this network'
    )


def write_torchscript(
    model: nn.Module, path: Path, size: tuple[int, int]
) -> str | None:
    """Write a classifier as TorchScript, for ``torch.jit.load``.

    The program maps the input of :class:`PixelClassifier` to logits. Where
    tracing fixes the batch size, see :func:`write_onnx`, it takes the images
    of a batch one after the other.

    Args:
        model: MMPretrain's classifier, on the CPU.
        path: File to write.
        size: Height and width of the images.

    Returns:
        None, or what the user should know.

    Raises:
        RuntimeError: If the program's logits are not PyTorch's.
        ValueError: If the network has several outputs.
    """
    note = None
    with kept_random_state(), torch.no_grad(), warnings.catch_warnings():
        # torch warns of every Python number in a traced network.
        warnings.simplefilter('ignore')
        classifier = _one_output(model, size)
        sizes = (_TRACED, *_OTHERS)
        program = torch.jit.trace(
            classifier, _random(_TRACED, size), check_trace=False
        )
        fits = False
        with contextlib.suppress(RuntimeError):  # of a shape
            fits = _gap(classifier, program, size, sizes) <= TOLERANCE
        if not fits:
            note = (
                f'{path.name} takes the images of a batch one after the '
                'other: traced, this network has a fixed batch size'
            )
            single = torch.jit.trace(
                classifier, _random(1, size), check_trace=False
            )
            program = torch.jit.script(_OneByOne(single))
        torch.jit.save(program, str(path))
        gap = _gap(classifier, torch.jit.load(str(path)), size, sizes)
    if gap > TOLERANCE:
        raise _other_logits('TorchScript', gap)
    return note


def _one_output(model: nn.Module, size: tuple[int, int]) -> PixelClassifier:
    """The classifier to trace, refused if it has several outputs."""
    classifier = PixelClassifier(model)
    logits = classifier(_random(1, size))
    if not isinstance(logits, Tensor):
        raise ValueError(
            f'{type(getattr(model, "head", model)).__name__} puts out '
            f'{len(logits)} sets of logits, of which MMPretrain makes one '
            'prediction; ONNX and TorchScript are for networks with one: '
            'export the weights alone'
        )
    return classifier


class _OneByOne(nn.Module):
    def __init__(self, single: nn.Module) -> None:
        super().__init__()
        self.single = single

    def forward(self, pixels: Tensor) -> Tensor:
        return torch.cat([self.single(image) for image in pixels.split(1)])


def _export_onnx(
    classifier: nn.Module, path: Path, pixels: Tensor, dynamic: bool
) -> None:
    parameters = inspect.signature(torch.onnx.export).parameters
    options: dict = dict(input_names=['pixels'], output_names=['logits'])
    if 'dynamo' in parameters and parameters['dynamo'].default:
        options.update(external_data=False, verbose=False)
        if dynamic:
            batch = torch.export.Dim('batch')
            options['dynamic_shapes'] = ({0: batch},)
    elif dynamic:
        axes = {0: 'batch'}
        options['dynamic_axes'] = dict(pixels=axes, logits=axes)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        torch.onnx.export(classifier, (pixels,), str(path), **options)


def _gap(
    expected: Callable[[Tensor], Tensor],
    actual: Callable[[Tensor], Tensor],
    size: tuple[int, int],
    batch_sizes: tuple[int, ...],
) -> float:
    """Largest difference of logits, in parts of the largest logit."""
    gaps = []
    for batch_size in batch_sizes:
        pixels = _random(batch_size, size)
        logits, others = expected(pixels), actual(pixels)
        if logits.shape != others.shape:
            return float('inf')
        scale = logits.abs().max().clamp(min=torch.finfo(logits.dtype).tiny)
        gaps.append(float((logits - others).abs().max() / scale))
    return max(gaps)


def _random(batch_size: int, size: tuple[int, int]) -> Tensor:
    return torch.randint(0, 256, (batch_size, 3, *size)).float()


def _other_logits(program: str, gap: float) -> RuntimeError:
    return RuntimeError(
        f'{program} does not compute what PyTorch does: logits differ by '
        f'{gap:.3g} of the largest one, {TOLERANCE:g} are allowed'
    )
