# Copyright (c) The serkd_mm authors. All rights reserved.
"""Cures for faults of other packages' versions, and nothing else.

Every cure looks for the fault itself, not for a version number, does nothing
where the fault is absent, and has a test in ``tests/test_compat.py`` that
fails without it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import sys
import tempfile
import threading
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from typing import IO, Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine import hub
from mmengine.config import Config
from mmengine.config import utils as config_utils
from mmengine.device import get_device
from mmengine.fileio import io
from mmengine.runner import checkpoint as mmengine_checkpoint
from torch import Tensor, nn
from torch.optim import Optimizer

from .paths import CONFIG_PREFIX, own_config_path

# Registered names of networks that compute something else without the cures,
# with weights and image size of a run that had them.
CURED_NETWORKS: set[str] = set()


def apply() -> None:
    """Make the installed stack importable and own configs findable."""
    _silence_known_warnings()
    _import_torchvision()
    _import_mmrazor()
    _find_own_configs()
    _read_metafiles_once()
    _one_hot_at_once()
    _use_second_norm_of_deit3()
    _rotate_pairs_of_eva02()
    _save_other_libraries_networks_in_place()


def _silence_known_warnings() -> None:
    """Leave out what the libraries say of themselves at every start.

    MMCV 2 without compiled operators warns of one that classifiers do not
    use. MMEngine 0.10 imports ``pkg_resources`` anew for every
    ``package::config``, and setuptools 80 and 81 warn of it each time.
    """
    for message in (
        'Fail to import ``MultiScaleDeformableAttention``',
        'pkg_resources is deprecated as an API',
    ):
        warnings.filterwarnings('ignore', message, UserWarning)


def _import_torchvision() -> None:
    """Import torchvision built for another torch flavour.

    For PyPI's torchvision (a CUDA build) beside a CPU build of torch: its
    compiled operators do not load and ``torchvision::nms`` is unknown when
    its meta kernels are registered. Declaring the two operators without an
    implementation lets the rest of torchvision import. On a matching stack
    the declaration would abort the process, so it follows the error only.
    """
    try:
        import torchvision  # noqa: F401
    except ImportError:
        return
    except RuntimeError as error:
        if 'torchvision::nms' not in str(error):
            raise
        for name in [n for n in sys.modules if n.startswith('torchvision')]:
            del sys.modules[name]
        library = torch.library.Library('torchvision', 'FRAGMENT')
        library.define(
            'nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor'
        )
        library.define(
            'qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor'
        )
        # The declarations live as long as the library object does.
        _KEPT_ALIVE.append(library)
        importlib.import_module('torchvision')


def _import_mmrazor() -> None:
    """Import MMRazor 1.0 on torch >= 2.0.

    Its quantization tables need names that torch.ao.quantization has lost.
    MMRazor has a path of its own for a torch without them (< 1.13), which is
    taken while that one module is imported.
    """
    with _mmcv_for_mmrazor():
        import mmrazor
    if _torch_has_quantization_names():
        return
    digit_version = mmrazor.digit_version

    def without_quantization(version: str, *args: Any) -> Any:
        if version == torch.__version__:
            version = '1.12.0'
        return digit_version(version, *args)

    mmrazor.digit_version = without_quantization
    try:
        importlib.import_module(
            'mmrazor.structures.quantization.backend_config'
        )
    finally:
        mmrazor.digit_version = digit_version


@contextlib.contextmanager
def _mmcv_for_mmrazor() -> Iterator[None]:
    """Let MMRazor 1.0 take a version of onedl-mmcv for the one it knows.

    It asserts mmcv <= 2.1.0 when imported. The maintained fork onedl-mmcv
    counts on from 2.3 with the same interface, and has no older release. The
    versions of mmcv itself stay under MMRazor's assertion.
    """
    import mmcv

    version = mmcv.__version__
    if not _is_installed('onedl-mmcv'):
        yield
        return
    mmcv.__version__ = '2.1.0'
    try:
        yield
    finally:
        mmcv.__version__ = version


def _is_installed(distribution: str) -> bool:
    try:
        metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _torch_has_quantization_names() -> bool:
    from torch.ao.quantization import fuser_method_mappings

    names = ('reverse2', 'reverse3', 'reverse_sequential_wrapper2')
    return all(hasattr(fuser_method_mappings, name) for name in names)


def _find_own_configs() -> None:
    """Let ``serkd_mm::config.py`` stand where ``mmpretrain::...`` can.

    MMEngine 0.10 resolves ``package::`` paths for a fixed list of OpenMMLab
    packages only, wants a folder behind the colons, fails on editable
    installations, and marks every dict of such a base with the package as
    registry scope, which a package without registries has not.
    """
    if getattr(Config, '_finds_serkd_mm', False):
        return
    get_cfg_path, get_config = Config._get_cfg_path, hub.get_config

    def find_base(cfg_path: str, filename: str) -> Any:
        if cfg_path.startswith(CONFIG_PREFIX):
            return own_config_path(cfg_path), None
        return get_cfg_path(cfg_path, filename)

    def find_config(cfg_path: str, pretrained: bool = False) -> Config:
        if cfg_path.startswith(CONFIG_PREFIX):
            if pretrained:
                raise ValueError(
                    f'there are no trained weights for {cfg_path}; leave '
                    'pretrained off'
                )
            return Config.fromfile(own_config_path(cfg_path))
        return get_config(cfg_path, pretrained)

    Config._get_cfg_path = staticmethod(find_base)
    hub.get_config = hub.hub.get_config = find_config
    Config._finds_serkd_mm = True


def _one_hot_at_once() -> None:
    """Make the one-hot labels of a batch in one operation.

    MMPretrain 1.2 sums the labels of each image by itself, also where each
    has one: 128 launches a step on GPUs, which wait for them.
    """
    from mmpretrain.models.utils import data_preprocessor

    host = data_preprocessor.batch_label_to_onehot
    if getattr(host, '__wrapped__', None) is not None:
        return

    @functools.wraps(host)
    def batch_label_to_onehot(
        batch_label: Tensor, split_indices: Sequence[int], num_classes: int
    ) -> Tensor:
        if list(split_indices) == list(range(1, len(batch_label))):
            return F.one_hot(batch_label, num_classes)
        return host(batch_label, split_indices, num_classes)

    data_preprocessor.batch_label_to_onehot = batch_label_to_onehot


def _use_second_norm_of_deit3() -> None:
    """Give the MLPs of DeiT-III the layer norm that was trained for them.

    MMPretrain 1.2 (and its fork 1.3) applies the attention's norm again. The
    second one's parameters then have no gradient, which DDP refuses, and the
    zoo's weights classify 35 % of ImageNet instead of 81 %
    (open-mmlab/mmpretrain#1614). Weights that MMPretrain alone has trained,
    by their untouched second norm, go on computing what they were trained
    for: the first one's take its place.
    """
    from mmpretrain.models.backbones.deit3 import (
        DeiT3TransformerEncoderLayer as Layer,
    )

    host = Layer.forward
    if 'ln2' in host.__code__.co_names:
        return

    @functools.wraps(host)
    def forward(self: Any, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln1(x))
        return self.ffn(self.ln2(x), identity=x)

    load = Layer._load_from_state_dict

    @functools.wraps(load)
    def load_from_state_dict(
        self: Any, state_dict: dict, prefix: str, *args: Any
    ) -> None:
        first, second = f'{prefix}ln1.', f'{prefix}ln2.'
        if all(
            second + name in state_dict
            and bool((state_dict[second + name] == value).all())
            for name, value in (('weight', 1), ('bias', 0))
        ):
            for name in ('weight', 'bias'):
                state_dict[second + name] = state_dict[first + name].clone()
        load(self, state_dict, prefix, *args)

    Layer.forward = forward
    Layer._load_from_state_dict = load_from_state_dict
    CURED_NETWORKS.add('DeiT3')


def _rotate_pairs_of_eva02() -> None:
    """Make rotary tables of EVA-02 for other image sizes than a checkpoint's.

    MMPretrain 1.2 (and its fork 1.3) computes them with the two channels that
    are rotated together at different angles, and with positions that depend
    on the width of a head; EVA-02's are of a grid of 16x16 tokens. Those of
    the zoo's checkpoints are right, but the first image of another size
    replaces them.
    """
    from mmpretrain.models.utils import RotaryEmbeddingFast

    table = RotaryEmbeddingFast(8, 2).freqs_cos
    if torch.equal(table[:, ::2], table[:, 1::2]):
        return
    host = RotaryEmbeddingFast.compute_position_embedding

    @functools.wraps(host)
    def compute_position_embedding(self: Any) -> tuple[Tensor, Tensor]:
        channels = torch.arange(0, self.half_dim, 2) / self.half_dim
        frequency = self.theta**-channels
        height, width = self.patch_resolution
        y, x = (
            (16 / n * torch.arange(n)).outer(frequency).repeat_interleave(2, 1)
            for n in (height, width)
        )
        angles = torch.cat(
            (y.repeat_interleave(width, 0), x.repeat(height, 1)), dim=1
        )
        return angles.cos(), angles.sin()

    RotaryEmbeddingFast.compute_position_embedding = compute_position_embedding


def _save_other_libraries_networks_in_place() -> None:
    """Let networks of timm and HuggingFace be read again inside of others.

    MMPretrain 1.2 saves their weights under the library's own names and
    returns them as a new dict, which PyTorch takes from the outermost module
    alone: as part of an algorithm they keep their prefix, and get a second
    one when they are loaded.
    """
    from mmpretrain.models.classifiers import (
        HuggingFaceClassifier,
        TimmClassifier,
    )

    def remove_prefix(
        module: nn.Module, state_dict: dict, prefix: str, _: dict
    ) -> None:
        inner = f'{prefix}model.'
        for key in list(state_dict):
            # All of them, in the order that they have.
            value = state_dict.pop(key)
            own = key.startswith(inner)
            state_dict[prefix + key[len(inner) :] if own else key] = value

    for kind in (TimmClassifier, HuggingFaceClassifier):
        kind._remove_state_dict_prefix = staticmethod(remove_prefix)


def _read_metafiles_once() -> None:
    """Keep what is read to resolve ``package::config.py``.

    MMEngine 0.10 reads all metafiles of the package for each such path, 85 of
    MMPretrain, which is most of the time that a config takes.
    """
    read = getattr(config_utils, 'load', None)
    if read is not None and not hasattr(read, 'cache_info'):
        config_utils.load = functools.lru_cache(None)(read)


def disable_inplace(model: nn.Module) -> None:
    """Turn in-place activations off, so that recorded tensors stay as they
    were recorded.

    MMRazor 1.0 means to do this, but walks ``nn.Module._modules`` only where
    that is an ``OrderedDict``; since torch made it a plain dict nothing is
    reached.
    """
    for module in model.modules():
        if hasattr(module, 'inplace'):
            setattr(module, 'inplace', False)  # noqa: B010


def is_compiling() -> bool:
    """Whether ``torch.compile`` is tracing.

    False in PyTorch 2.1, which has no such question; graphs break there.
    """
    ask = getattr(torch.compiler, 'is_compiling', None)
    return ask is not None and ask()


def disable_old_dynamo(function: Callable) -> Callable:
    """Leave a function out of the graphs of Dynamo before PyTorch 2.4.

    There it fails on autograd functions whose backward may raise, and on
    their ``ctx.saved_tensors`` where a compiled training step calls backward;
    later ones take the functions into their graphs.
    """
    if hasattr(torch.library, 'register_autograd'):  # since PyTorch 2.4
        return function
    return torch.compiler.disable(function)


@contextlib.contextmanager
def autocast(device: str, dtype: torch.dtype) -> Iterator[None]:
    """``torch.autocast`` that leaves no cast weights behind.

    Dynamo of PyTorch 2.1 leaves a level of autocast open for each one that it
    traces. Without an outermost level nothing empties the cache of weights,
    and training goes on with those of the first step.
    """
    try:
        with torch.autocast(device, dtype):
            yield
    finally:
        torch.clear_autocast_cache()


def emulates_bfloat16() -> bool:
    """Whether this CPU has no instructions for products in bfloat16.

    False where oneDNN cannot be asked, for which PyTorch (2.1 to 2.13) has a
    private operator only.
    """
    try:
        return not torch.ops.mkldnn._is_mkldnn_bf16_supported()
    except (AttributeError, RuntimeError):
        return False


def keep_step_hooks(optimizer: Optimizer) -> None:
    """Let an optimizer call the hooks of its steps beside ``torch.compile``.

    Dynamo of PyTorch 2.1 takes their call out of the optimizers' classes when
    something is compiled for the first time, and registered hooks are never
    called. The step of this one optimizer calls them before and after that.
    """
    step: Any = optimizer.step

    @functools.wraps(step)
    def unhooked(self: Optimizer, *args: Any, **kwargs: Any) -> Any:
        return step(*args, **kwargs)

    hooked = Optimizer.profile_hook_step(unhooked)
    layer, layers = step, []
    while layer is not None:
        layers.append(getattr(layer, '__code__', None))
        layer = getattr(layer, '__wrapped__', None)
    calls_them = hooked.__code__ in layers
    own = step if calls_them else types.MethodType(hooked, optimizer)
    setattr(optimizer, 'step', own)  # noqa: B010


_MATMUL = types.SimpleNamespace(
    lock=threading.Lock(), users=0, changed=contextlib.ExitStack()
)


@contextlib.contextmanager
def ieee_matmul() -> Iterator[None]:
    """Float32 matrix products in full float32, whatever the user has set.

    The setting is the process's, so that of several threads the first one
    changes it and the last one puts it back.
    """
    with _MATMUL.lock:
        if not _MATMUL.users:
            _MATMUL.changed.enter_context(_ieee_matmul_of_process())
        _MATMUL.users += 1
    try:
        yield
    finally:
        with _MATMUL.lock:
            _MATMUL.users -= 1
            if not _MATMUL.users:
                _MATMUL.changed.close()


@contextlib.contextmanager
def _ieee_matmul_of_process() -> Iterator[None]:
    """PyTorch 2.9 replaced the setting, and refuses to mix both forms."""
    if not hasattr(torch.backends, 'fp32_precision'):
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision('highest')
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)
        return
    matmuls: list[Any] = [
        torch.backends.cuda.matmul,
        getattr(torch.backends.mkldnn, 'matmul'),  # noqa: B009
    ]
    settings = [matmul.fp32_precision for matmul in matmuls]
    try:
        for matmul in matmuls:
            matmul.fp32_precision = 'ieee'
        yield
    finally:
        for matmul, setting in zip(matmuls, settings):
            matmul.fp32_precision = setting


def replace_fork_reader(load: Callable) -> None:
    """Put ``load`` in the place of onedl-mmengine's reader of checkpoints.

    That of 0.10.12 lets torch take the real ``getattr`` and NumPy's own
    constructors while it reads; which of two objects torch then takes for a
    name that has a stand-in is left to chance. MMEngine itself has no such
    function.
    """
    if hasattr(mmengine_checkpoint, '_safe_torch_load'):
        mmengine_checkpoint._safe_torch_load = load


def stay_in_place(iterator: Any) -> bool:
    """Let the loop of onedl-mmengine pass over no batch of a resumed run.

    MMEngine 0.10.7 draws as many batches as iterations were done. The fork's
    0.10.12 tells its iterator to skip them, or draws none at all.

    Args:
        iterator: Endless iterator that is where training goes on.

    Returns:
        Whether it is the fork's; else batches that are drawn must be counted.
    """
    if not hasattr(iterator, 'skip_iter'):
        return False
    iterator.skip_iter = lambda num_iters: None
    return True


def compile_module(model: nn.Module, **options: Any) -> None:
    """Compile a model of the MMPretrain zoo in place, without graph breaks.

    mmcv's DropPath keeps its probability as a NumPy number where a backbone
    took it from ``np.linspace``, and ``torch.compile`` breaks the graph at
    every comparison with it. Plain floats are the same probabilities.

    Args:
        model: Model whose calls are compiled; parameter names stay.
        options: Arguments of :func:`torch.compile`.

    Raises:
        RuntimeError: If this torch cannot compile a module in place.
    """
    if not hasattr(model, 'compile'):
        raise RuntimeError(
            f'torch {torch.__version__} has no nn.Module.compile; update to '
            'torch >= 2.2 or leave teacher_compile off'
        )
    for module in model.modules():
        probability = getattr(module, 'drop_prob', None)
        if isinstance(probability, np.floating):
            setattr(module, 'drop_prob', float(probability))  # noqa: B010
    model.compile(**options)


@contextlib.contextmanager
def decoder_messages() -> Iterator[list[str]]:
    """Collect what image libraries write to the standard error stream.

    OpenCV 4 returns a damaged JPEG as if it were whole; libjpeg's warning is
    all there is, and C code writes it past ``sys.stderr``. What other threads
    write meanwhile is collected too.

    Yields:
        A list, filled with the lines when the block ends.
    """
    lines: list[str] = []
    kept = os.dup(2)
    try:
        with _scratch_file() as said:
            os.dup2(said.fileno(), 2)
            try:
                yield lines
            finally:
                os.dup2(kept, 2)
                said.seek(0)
                text = said.read().decode(errors='replace')
                lines += filter(None, map(str.strip, text.splitlines()))
    finally:
        os.close(kept)


def _scratch_file() -> IO[bytes]:
    """An empty file without name, in memory where the system offers that."""
    if hasattr(os, 'memfd_create'):
        return open(os.memfd_create('messages'), 'w+b')
    return tempfile.TemporaryFile()


def forget_file_backends() -> None:
    """Let files be written by the backends that are registered now.

    MMEngine 0.10 keeps a backend after its first use, also where a later
    ``register_backend(force=True)`` replaces it.
    """
    io.backend_instances.clear()


_GLOO = dict(backend='gloo')
_CPU_WRAPPER = dict(
    type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False
)


def prepare_cpu_distributed(cfg: Any) -> None:
    """Let the PyTorch launcher run on a machine without CUDA, over gloo.

    MMEngine 0.10 selects a CUDA device before it looks whether there is one
    and wraps the model with ``device_ids=[LOCAL_RANK]``. A process group
    that exists already and an explicit wrapper avoid both.

    Args:
        cfg: Config of the runner; ``model_wrapper_cfg`` is filled in. What
            an earlier job on CPUs has left in its config is taken out.
    """
    forget_cpu_distributed(cfg)
    if cfg.get('launcher', 'none') != 'pytorch' or get_device() != 'cpu':
        return
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group('gloo')
    cfg.setdefault('env_cfg', {})['dist_cfg'] = dict(_GLOO)
    unused = cfg.get('find_unused_parameters', False)
    wrapper = dict(_CPU_WRAPPER, find_unused_parameters=unused)
    cfg.setdefault('model_wrapper_cfg', wrapper)


def forget_cpu_distributed(cfg: Any) -> None:
    """Take out what :func:`prepare_cpu_distributed` has put into a config.

    A run's config is written down with it, and would train on GPUs over gloo.

    Args:
        cfg: Config, or dict of one.
    """
    wrapper = dict(cfg.get('model_wrapper_cfg') or {})
    wrapper.pop('find_unused_parameters', None)
    if wrapper == _CPU_WRAPPER:
        cfg.pop('model_wrapper_cfg')
        if (cfg.get('env_cfg') or {}).get('dist_cfg') == _GLOO:
            cfg['env_cfg'].pop('dist_cfg')


def end_persistent_workers(loader: Any) -> None:
    """Let the processes end that a data loader keeps between epochs.

    PyTorch (2.1 to 2.13) tells them too late when the garbage collector or
    the exit finds them: their queues are closed, so it waits for each of them
    in turn for five seconds and then terminates it.

    Args:
        loader: Data loader, persistent or not.
    """
    iterator = getattr(loader, '_iterator', None)
    if iterator is not None:
        loader._iterator = None
        iterator._shutdown_workers()


_KEPT_ALIVE: list[Any] = []


@contextlib.contextmanager
def encoders_in_parts() -> Iterator[None]:
    """Run PyTorch's attention and encoder layers operator by operator.

    For MMEngine 0.10's count of operations, which does not know the one
    operator that they are in eval mode and takes it for nothing. PyTorch
    before 2.3 cannot leave it out.
    """
    mha = getattr(torch.backends, 'mha', None)
    if mha is None:
        yield
        return
    fused = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        mha.set_fastpath_enabled(fused)
