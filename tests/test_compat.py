# Copyright (c) The serkd_mm authors. All rights reserved.
"""Each cure against the fault that it cures.

A test first shows the fault without the cure, in a fresh interpreter where
imports are concerned, and is skipped where the installed stack has none.
"""

from __future__ import annotations

import gc
import os
import socket
import subprocess
import sys
import types
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import cv2
import mmrazor
import numpy as np
import pytest
import torch
from mmengine import hub
from mmengine.analysis import FlopAnalyzer
from mmengine.config import Config, ConfigDict
from mmengine.config import utils as config_utils
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmpretrain.models import TimmClassifier
from mmpretrain.models.backbones.deit3 import DeiT3TransformerEncoderLayer
from mmpretrain.models.utils import RotaryEmbeddingFast, data_preprocessor
from mmrazor.models.algorithms import BaseAlgorithm
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from serkd_mm import compat

from .datasets.images import damaged, jpeg

ROOT = Path(__file__).resolve().parents[1]

# compat.py alone: importing the package would apply every cure.
LOAD_COMPAT = f"""
import sys, types
package = types.ModuleType('serkd_mm')
package.__path__ = [{str(ROOT / 'serkd_mm')!r}]
sys.modules['serkd_mm'] = package
from serkd_mm import compat
"""


def python(*lines: str) -> subprocess.CompletedProcess:
    """Run lines in a fresh interpreter that has compat.py, unapplied."""
    return subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', '\n'.join(lines)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
    )


KNOWN_WARNINGS = {
    'Fail to import ``MultiScaleDeformableAttention``': (
        'import mmcv.cnn.bricks.transformer',
    ),
    'pkg_resources is deprecated': (
        'from mmengine import hub',
        'for _ in range(2):',
        "    hub.get_config('mmpretrain::resnet/resnet18_8xb32_in1k.py')",
    ),
}


@pytest.mark.parametrize('message', KNOWN_WARNINGS)
def test_warnings_that_nobody_can_act_on_are_left_out(message: str) -> None:
    start = ('import warnings', "warnings.simplefilter('default')")
    lines = KNOWN_WARNINGS[message]
    if message not in python(*start, *lines).stderr:
        pytest.skip('the installed versions do not warn')
    done = python(*start, LOAD_COMPAT, 'compat.apply()', *lines)

    assert done.returncode == 0, done.stderr
    assert message not in done.stderr


def assert_succeeds(*lines: str) -> None:
    done = python(*lines)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_torchvision_imports_beside_another_build_of_torch() -> None:
    without = python('import torchvision')
    if without.returncode == 0:
        pytest.skip('torchvision and torch fit on this stack')
    assert 'torchvision::nms' in without.stderr.splitlines()[-1]

    assert_succeeds(
        LOAD_COMPAT,
        'compat._import_torchvision()',
        'import torchvision.transforms, torchvision.models',
    )


@pytest.mark.slow
def test_mmrazor_imports_on_a_torch_without_quantization_names() -> None:
    start = (LOAD_COMPAT, 'compat._import_torchvision()')
    without = python(
        *start, 'with compat._mmcv_for_mmrazor(): import mmrazor.models'
    )
    if without.returncode == 0:
        pytest.skip('mmrazor imports on this stack by itself')
    assert 'ImportError' in without.stderr.splitlines()[-1]

    assert_succeeds(
        *start,
        'compat._import_mmrazor()',
        'import mmrazor.models',
        'from mmrazor.models.algorithms import SingleTeacherDistill',
    )


@pytest.mark.slow
def test_mmrazor_imports_with_the_fork_of_mmcv(tmp_path) -> None:
    """The fork is another name beside the module, with a higher version."""
    newer = (
        LOAD_COMPAT,
        'import mmcv',
        "mmcv.__version__ = '2.3.6'",
        f'sys.path.append({str(tmp_path)!r})',
        'compat._import_torchvision()',
    )
    cured = (*newer, 'compat._import_mmrazor()')
    assert 'MMCV==2.3.6' in python(*newer, 'import mmrazor').stderr
    if not _has_fork():
        assert 'MMCV==2.3.6' in python(*cured).stderr
        info = tmp_path / 'onedl_mmcv-2.3.6.dist-info'
        info.mkdir()
        (info / 'METADATA').write_text(
            'Metadata-Version: 2.1\nName: onedl-mmcv\nVersion: 2.3.6\n'
        )

    assert_succeeds(*cured, "assert mmcv.__version__ == '2.3.6'")


@pytest.mark.slow
def test_the_forks_reader_allows_nothing_of_its_own(tmp_path: Path) -> None:
    if not hasattr(mmengine_checkpoint, '_safe_torch_load'):
        pytest.skip('MMEngine has this reader in its fork only')
    torch.save({}, tmp_path / 'a.pth')
    read = f"""
import torch
from mmengine.runner import CheckpointLoader

def load(*args, **kwargs):
    print('getattr' if getattr in torch.serialization.get_safe_globals() else
          'nothing')

torch.load = load
compat._import_torchvision()
CURE
CheckpointLoader.load_checkpoint({str(tmp_path / 'a.pth')!r})
"""
    cured = read.replace('CURE', 'compat.replace_fork_reader(load)')

    assert 'getattr' in python(LOAD_COMPAT, read.replace('CURE', '')).stdout
    assert 'nothing' in python(LOAD_COMPAT, cured).stdout


@pytest.mark.parametrize('skips', [True, False])
def test_an_iterator_that_skips_by_itself_stays_in_place(skips) -> None:
    """The fork's does; resumed runs of tests/engine/hooks go through it."""

    class Endless:
        position = 0

        if skips:

            def skip_iter(self, num_iters: int) -> None:
                self.position += num_iters

    iterator = Endless()
    assert compat.stay_in_place(iterator) is skips
    if skips:
        iterator.skip_iter(5)
    assert iterator.position == 0


def _has_fork() -> bool:
    return any(
        distribution.metadata['Name'] == 'onedl-mmcv'
        for distribution in metadata.distributions()
    )


def test_mmrazor_sees_the_true_torch_version_after_its_import() -> None:
    version = mmrazor.digit_version(torch.__version__)

    assert version[:2] == tuple(
        int(part) for part in torch.__version__.split('.')[:2]
    )


STEP = """
import functools
import torch
parameter = torch.nn.Parameter(torch.ones(2))
parameter.grad = torch.ones(2)
optimizer = torch.optim.SGD([parameter], lr=0.5)

def compile_something():
    torch.compile(torch.neg, backend='eager')(parameter)

def schedule():
    # As learning rate schedules wrap it, MMEngine's and PyTorch's.
    function = optimizer.step.__func__

    @functools.wraps(function)
    def counted(*args, **kwargs):
        return function(optimizer, *args, **kwargs)

    counted._with_counter = True
    optimizer.step = counted

def step():
    optimizer.register_step_pre_hook(lambda *_: print('before'))
    optimizer.register_step_post_hook(lambda *_: print('after'))
    optimizer.step()
    assert parameter.tolist() == [0.5, 0.5], parameter
"""
CURE = 'compat.keep_step_hooks(optimizer)'
COUNTED = 'assert optimizer.step._with_counter'


@pytest.mark.parametrize(
    'order',
    [
        ('compile_something()', CURE),
        (CURE, 'compile_something()'),
        ('compile_something()', 'schedule()', CURE, COUNTED),
        ('schedule()', CURE, 'compile_something()', COUNTED),
    ],
    ids=['compiled', 'compiled later', 'with schedule', 'schedule first'],
)
def test_hooks_of_steps_are_called_once_beside_compile(order) -> None:
    """Without the cure PyTorch 2.1 calls none where this compiles first."""
    cured = python(LOAD_COMPAT, STEP, *order, 'step()')

    assert cured.stdout.split() == ['before', 'after'], cured.stderr


class Activations(nn.Module):
    """In-place activations at the top, nested and in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.top = nn.ReLU(inplace=True)
        self.nested = nn.Sequential(
            nn.BatchNorm2d(3), nn.Sequential(nn.SiLU(inplace=True))
        )
        self.listed = nn.ModuleList([nn.Dropout(inplace=True)])


def in_place(model: Activations) -> list[bool]:
    activations = (nn.ReLU, nn.SiLU, nn.Dropout)
    return [m.inplace for m in model.modules() if isinstance(m, activations)]


def test_mmrazor_leaves_activations_in_place_without_the_cure() -> None:
    model = Activations()
    algorithm = BaseAlgorithm.__new__(BaseAlgorithm)
    nn.Module.__init__(algorithm)
    algorithm.architecture = model
    algorithm.set_module_inplace_false(model, 'self.architecture')
    if not any(in_place(model)):
        pytest.skip('mmrazor reaches the activations on this stack')
    assert in_place(model) == [True, True, True]


def test_no_activation_stays_in_place_with_the_cure() -> None:
    model = Activations()
    assert in_place(model) == [True, True, True]

    compat.disable_inplace(model)

    assert in_place(model) == [False, False, False]


@pytest.fixture
def one_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a launcher tells a process, for a group of one."""
    if torch.cuda.is_available():
        pytest.skip('the fault needs a machine without CUDA')
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    for name, value in (
        ('RANK', '0'),
        ('WORLD_SIZE', '1'),
        ('LOCAL_RANK', '0'),
        ('MASTER_ADDR', '127.0.0.1'),
        ('MASTER_PORT', str(port)),
    ):
        monkeypatch.setenv(name, value)
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def distributed_config(launcher: str = 'pytorch', **extra: Any) -> ConfigDict:
    return ConfigDict(
        launcher=launcher,
        env_cfg=dict(dist_cfg=dict(backend='nccl')),
        **extra,
    )


def test_the_launcher_runs_on_a_machine_without_cuda(
    one_process: None,
) -> None:
    from mmengine.dist import init_dist
    from mmengine.model import MMDistributedDataParallel

    # Which error depends on the build of torch.
    failures = (AssertionError, AttributeError, RuntimeError)
    with pytest.raises(failures, match='(?i)cuda|nvidia'):
        init_dist('pytorch', backend='gloo')
    assert not torch.distributed.is_initialized()

    cfg = distributed_config()
    compat.prepare_cpu_distributed(cfg)

    assert torch.distributed.get_backend() == 'gloo'
    assert cfg.env_cfg.dist_cfg == dict(backend='gloo')
    wrapper = cfg.model_wrapper_cfg
    assert wrapper.pop('type') == 'MMDistributedDataParallel'
    MMDistributedDataParallel(nn.Linear(2, 2), **wrapper)


def test_a_config_that_was_written_on_cpus_is_one_for_gpus_again(
    one_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = distributed_config(find_unused_parameters=True)
    before = dict(cfg, env_cfg={})  # MMEngine's own backend is for GPUs
    compat.prepare_cpu_distributed(cfg)
    assert cfg.env_cfg.dist_cfg == dict(backend='gloo')

    monkeypatch.setattr(compat, 'get_device', lambda: 'cuda')
    compat.prepare_cpu_distributed(cfg)

    assert dict(cfg) == before


def test_a_wrapper_of_the_users_own_is_kept(one_process: None) -> None:
    own = dict(type='MMDistributedDataParallel', device_ids=None)
    cfg = distributed_config(model_wrapper_cfg=dict(own))

    compat.prepare_cpu_distributed(cfg)

    assert cfg.model_wrapper_cfg == own


def test_a_run_without_launcher_is_left_alone() -> None:
    cfg = distributed_config('none')
    before = dict(cfg)

    compat.prepare_cpu_distributed(cfg)

    assert dict(cfg) == before
    assert not torch.distributed.is_initialized()


def test_own_configs_are_found_by_package_path(tmp_path: Path) -> None:
    leaf = tmp_path / 'leaf.py'
    leaf.write_text(
        "_base_ = ['serkd_mm::quickstart/student.py']\n"
        'model = dict(head=dict(num_classes=7))\n'
    )
    assert_succeeds(
        LOAD_COMPAT,
        f"""
from mmengine import hub
from mmengine.config import Config

def from_base():
    return Config.fromfile({str(leaf)!r})

def from_hub():
    return hub.get_config('serkd_mm::quickstart/student.py')

for read in (from_base, from_hub):
    try:
        read()
    except Exception:
        pass
    else:
        raise SystemExit('found without the cure')

compat._find_own_configs()

for read, num_classes in ((from_base, 7), (from_hub, 10)):
    model = read().model
    assert model.head.type == 'DeiTDistillHead', model
    assert model.head.num_classes == num_classes, model
    assert '_scope_' not in model, model
""",
    )


def test_configs_of_other_packages_are_still_found(tmp_path: Path) -> None:
    leaf = tmp_path / 'leaf.py'
    leaf.write_text("_base_ = 'mmpretrain::_base_/default_runtime.py'\n")

    assert Config.fromfile(leaf).default_scope == 'mmpretrain'
    other = hub.get_config('mmpretrain::deit/deit-small_4xb256_in1k.py')
    assert other.model.backbone.arch == 'deit-small'


@pytest.mark.parametrize('name', ['nothing.py', '_base_', 'quickstart'])
def test_an_unknown_own_config_lists_those_there_are(
    name: str, tmp_path: Path
) -> None:
    known = r'serkd_mm::.*; there are: .*quickstart/serkd\.py.*serkd_deit-s'
    with pytest.raises(FileNotFoundError, match=known):
        hub.get_config(f'serkd_mm::{name}')
    leaf = tmp_path / 'leaf.py'
    leaf.write_text(f"_base_ = 'serkd_mm::{name}'\n")
    with pytest.raises(FileNotFoundError, match=known):
        Config.fromfile(leaf)


@pytest.mark.parametrize('in_memory', [True, False])
def test_opencv_hides_that_a_jpeg_is_damaged_and_the_cure_tells(
    in_memory: bool,
    capfd: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not in_memory:  # as systems other than Linux
        monkeypatch.delattr(os, 'memfd_create', raising=False)
    content = np.frombuffer(damaged(jpeg()), np.uint8)

    assert cv2.imdecode(content, cv2.IMREAD_COLOR) is not None
    fault = capfd.readouterr().err.strip()
    assert fault.startswith('Corrupt JPEG data')

    with compat.decoder_messages() as messages:
        cv2.imdecode(content, cv2.IMREAD_COLOR)
        os.write(2, b'two\nlines\n')
    os.write(2, b'later\n')

    assert messages == [fault, 'two', 'lines']
    assert capfd.readouterr().err == 'later\n'


def test_the_error_stream_is_back_after_an_error(
    capfd: pytest.CaptureFixture,
) -> None:
    open_files = len(os.listdir('/dev/fd'))
    with pytest.raises(KeyError), compat.decoder_messages():
        raise KeyError
    os.write(2, b'later\n')

    assert capfd.readouterr().err == 'later\n'
    assert len(os.listdir('/dev/fd')) == open_files


def test_metafiles_are_read_once() -> None:
    path = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'
    before = hub.get_config(path).pretty_text
    reads = config_utils.load.cache_info().misses
    assert reads > 10
    assert hub.get_config(path).pretty_text == before
    assert config_utils.load.cache_info().misses == reads
    # What the installed version does without it.
    counted = Mock(wraps=config_utils.load.__wrapped__)
    with patch.object(config_utils, 'load', counted):
        hub.get_config(path)
        hub.get_config(path)
    assert counted.call_count > 20


def test_labels_of_a_batch_become_one_hot_at_once() -> None:
    cured = data_preprocessor.batch_label_to_onehot
    host = cured.__wrapped__
    labels = torch.tensor([3, 0, 2, 3])

    class Sums(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.count += func is torch.ops.aten.sum.dim_IntList
            return func(*args, **(kwargs or {}))

    for splits, expected in (([1, 2, 3], 0), ([1, 3], 3), ([], 1), ([0], 2)):
        with Sums() as sums:
            found = cured(labels, splits, 5)
        assert sums.count == expected
        assert torch.equal(found, host(labels, splits, 5))
    with Sums() as sums:
        host(labels, [1, 2, 3], 5)
    assert sums.count == 4


def test_a_network_of_timm_is_read_again_inside_of_another() -> None:
    timm = pytest.importorskip('timm')
    names = list(timm.create_model('resnet10t').state_dict())

    def network() -> TimmClassifier:
        return TimmClassifier(model_name='resnet10t')

    outer = nn.ModuleDict(
        dict(first=nn.Linear(2, 2), student=network(), last=nn.Linear(2, 2))
    )
    weights = outer.state_dict()

    assert list(weights) == [
        *('first.weight', 'first.bias'),
        *(f'student.{name}' for name in names),
        *('last.weight', 'last.bias'),
    ]
    other = nn.ModuleDict(
        dict(first=nn.Linear(2, 2), student=network(), last=nn.Linear(2, 2))
    )
    other.load_state_dict(weights)
    for name, value in other.state_dict().items():
        assert torch.equal(value, weights[name]), name
    # By itself as before: timm's own names.
    alone = network().state_dict()
    assert list(alone) == names
    assert alone._metadata
    network().load_state_dict(alone)


def test_deit3_normalises_its_mlps_by_the_norm_made_for_them() -> None:
    torch.manual_seed(0)
    layer = DeiT3TransformerEncoderLayer(8, 2, 16, use_layer_scale=False)
    for norm in (layer.ln1, layer.ln2):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    x = torch.randn(2, 5, 8)

    found = layer(x)

    after = x + layer.attn(layer.ln1(x))
    (first, activation, _), second, _ = layer.ffn.layers
    expected = after + second(activation(first(layer.ln2(after))))
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    assert all(p.grad is not None for p in layer.parameters())
    host = getattr(type(layer).forward, '__wrapped__', None)
    if host is None:
        pytest.skip('this MMPretrain has no such fault')
    assert not torch.allclose(host(layer, x), expected, atol=0.01)
    assert {'DeiT3'} == compat.CURED_NETWORKS


def test_deit3_of_mmpretrain_alone_computes_what_it_was_trained_for() -> None:
    trained, layer = (DeiT3TransformerEncoderLayer(8, 2, 16) for _ in 'ab')
    host = getattr(type(layer).forward, '__wrapped__', None)
    if host is None:
        pytest.skip('this MMPretrain has no such fault')
    nn.init.normal_(trained.ln1.weight)
    nn.init.normal_(trained.ln1.bias)
    state = trained.state_dict()
    x = torch.randn(2, 5, 8)

    layer.load_state_dict(state)

    assert torch.equal(layer(x), host(trained, x))
    assert (state['ln2.weight'] == 1).all()
    # One that is trained in one of its parameters stays as it is.
    nn.init.normal_(trained.ln2.bias)
    layer.load_state_dict(trained.state_dict())
    assert torch.equal(layer(x), trained(x))


def test_rotary_embeddings_of_eva02_rotate_by_the_place_in_a_16x16_grid() -> (
    None
):
    height, width, dim = 4, 6, 12
    rope = RotaryEmbeddingFast(dim, (height, width))
    torch.manual_seed(0)
    x = torch.randn(1, 2, height * width, dim, dtype=torch.float64)
    rope.double()

    found = rope(x, (height, width))

    # EVA-02 in complex numbers: a pair of channels is one, and turns by the
    # row in the first half of the pairs, by the column in the second.
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
    rows, columns = torch.meshgrid(
        torch.arange(height) * 16 / height,
        torch.arange(width) * 16 / width,
        indexing='ij',
    )
    frequency = 10000 ** (-torch.arange(3) / 3)
    turns = [place.reshape(-1, 1) * frequency for place in (rows, columns)]
    turned = pairs * torch.exp(1j * torch.cat(turns, 1))
    expected = torch.view_as_real(turned).flatten(-2)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)

    cured = RotaryEmbeddingFast.compute_position_embedding
    host = getattr(cured, '__wrapped__', None)
    if host is None:
        pytest.skip('this MMPretrain has no such fault')
    assert not torch.allclose(host(rope)[0], cured(rope)[0], atol=0.1)


def test_applying_the_cures_twice_changes_nothing() -> None:
    before = (
        Config._get_cfg_path,
        hub.get_config,
        mmrazor.digit_version,
        config_utils.load,
        data_preprocessor.batch_label_to_onehot,
        DeiT3TransformerEncoderLayer.forward,
        DeiT3TransformerEncoderLayer._load_from_state_dict,
        RotaryEmbeddingFast.compute_position_embedding,
    )

    compat.apply()

    assert before == (
        Config._get_cfg_path,
        hub.get_config,
        mmrazor.digit_version,
        config_utils.load,
        data_preprocessor.batch_label_to_onehot,
        DeiT3TransformerEncoderLayer.forward,
        DeiT3TransformerEncoderLayer._load_from_state_dict,
        RotaryEmbeddingFast.compute_position_embedding,
    )


# A notebook may have read an image before it imports this package.
USED_BEFORE = """
from mmengine.fileio import get_file_backend, get_text
get_text(__file__)
import serkd_mm
backend = get_file_backend(__file__, enable_singleton=True)
assert isinstance(backend, serkd_mm.engine.AtomicLocalBackend), backend
"""


def test_files_are_written_whole_also_if_one_was_read_before(
    tmp_path: Path,
) -> None:
    script = tmp_path / 'script.py'
    script.write_text(USED_BEFORE)
    subprocess.run([sys.executable, '-W', 'ignore', script], check=True)


@pytest.mark.parametrize('cured', [False, True])
def test_persistent_workers_are_told_to_end(
    cured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = DataLoader([0], num_workers=1, persistent_workers=True)
    list(loader)
    (worker,) = loader._iterator._workers
    terminated = []
    end = worker.terminate
    monkeypatch.setattr(
        worker, 'terminate', lambda: (terminated.append(worker), end())
    )
    if cured:
        compat.end_persistent_workers(loader)
    else:
        loader.cycle = loader
        del loader
        gc.collect()
    worker.join()
    if not cured and not terminated:
        pytest.skip('this PyTorch tells them in time')
    assert bool(terminated) is not cured


@pytest.mark.skipif(
    not hasattr(torch.backends, 'fp32_precision'),
    reason='PyTorch before 2.9 has the old setting alone',
)
def test_threads_share_full_precision_and_put_the_setting_back() -> None:
    """Each on its own, the first to leave would end it for the second."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision('medium')
    found = torch.backends.mkldnn.matmul.fp32_precision
    try:
        first, second = compat.ieee_matmul(), compat.ieee_matmul()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert torch.backends.mkldnn.matmul.fp32_precision == 'ieee'
        second.__exit__(None, None, None)
        assert torch.backends.mkldnn.matmul.fp32_precision == found
    finally:
        torch.set_float32_matmul_precision(before)


def test_an_autocast_level_left_open_keeps_no_old_weights() -> None:
    """As Dynamo of PyTorch 2.1 leaves it."""
    layer, inputs = nn.Linear(2, 2, bias=False), torch.ones(1, 2)

    def doubled(autocast: Any) -> bool:
        with autocast('cpu', torch.bfloat16):
            before = layer(inputs)
        with torch.no_grad():
            layer.weight.mul_(2)
        with autocast('cpu', torch.bfloat16):
            return torch.equal(layer(inputs), 2 * before)

    torch.autocast_increment_nesting()
    try:
        assert not doubled(torch.autocast)
        torch.clear_autocast_cache()
        assert doubled(compat.autocast)
    finally:
        torch.autocast_decrement_nesting()
        torch.clear_autocast_cache()


def test_where_onednn_cannot_be_asked_nothing_is_said_of_bfloat16(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ask = torch.ops.mkldnn._is_mkldnn_bf16_supported
    assert compat.emulates_bfloat16() is (not ask())
    monkeypatch.setattr(torch.ops, 'mkldnn', types.SimpleNamespace())
    assert compat.emulates_bfloat16() is False


@pytest.mark.skipif(
    not hasattr(torch.backends, 'mha'), reason='PyTorch cannot leave it out'
)
def test_operations_of_encoder_layers_are_counted() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    tokens = torch.zeros(1, 5, 8)

    def counted() -> float:
        counter = FlopAnalyzer(layer, (tokens,))
        counter.unsupported_ops_warnings(False)
        return counter.total()

    with torch.no_grad():
        with compat.encoders_in_parts():
            whole = counted()
        # Without the projections to and from the heads.
        assert counted() == whole - 5 * 4 * 8 * 8
