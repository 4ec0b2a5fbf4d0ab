# Copyright (c) The serkd_mm authors. All rights reserved.
"""A checkpoint cannot do anything but be read."""

from __future__ import annotations

import _codecs
import copyreg
import hashlib
import http.server
import io
import os
import pickle
import subprocess
import tarfile
import threading
from collections import OrderedDict
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PosixPath
from types import SimpleNamespace
from typing import Any

import mmpretrain
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel, PretrainedInit
from mmengine.optim import OneCycleLR
from mmengine.runner import CheckpointLoader, Runner
from mmengine.runner import checkpoint as mmengine_checkpoint
from torch import nn

from serkd_mm.engine.export import export_student
from serkd_mm.engine.safe_globals import allow_in_torch, load_restricted
from serkd_mm.engine.safe_load import UnsafeCheckpointError
from serkd_mm.models.algorithms.teacher import load_teacher_weights

HAS_STAND_INS = hasattr(
    torch.serialization, 'get_unsafe_globals_in_checkpoint'
)


@pytest.fixture(params=['weights only', 'restricted'])
def reader(request: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's own reader, and the one for torch < 2.6."""
    if not HAS_STAND_INS and request.param == 'weights only':
        pytest.skip('this torch takes no stand-ins')
    if HAS_STAND_INS and request.param == 'restricted':
        monkeypatch.delattr(
            torch.serialization, 'get_unsafe_globals_in_checkpoint'
        )


def read(path: Path) -> Any:
    return CheckpointLoader.load_checkpoint(str(path), map_location='cpu')


# -- what must be read ------------------------------------------------------


def mmengine_content() -> dict:
    """The kinds of content of the files that MMEngine's Runner writes."""
    history = HistoryBuffer()
    for value in (0.5, 0.25):
        history.update(value)
    return dict(
        state_dict=OrderedDict(
            weight=torch.ones(2), half=torch.ones(1).half()
        ),
        meta=dict(epoch=1, seed=np.int64(3), classes=('a', 'b')),
        optimizer=dict(state={0: dict(step=torch.tensor(1.0))}),
        message_hub=dict(
            log_scalars={'train/loss': history},
            runtime_info=dict(
                lr=np.float64(0.1),
                half=np.float32(0.5),
                counts=np.arange(3),
                nothing=np.zeros(0),
                flags=np.array([True, False]),
                random=np.random.RandomState(0).get_state(),
            ),
        ),
    )


@pytest.mark.parametrize('zipped', [True, False])
def test_the_files_of_mmengine_are_read(
    reader: None, zipped: bool, tmp_path: Path
) -> None:
    path = tmp_path / 'epoch_1.pth'
    torch.save(mmengine_content(), path, _use_new_zipfile_serialization=zipped)

    content = read(path)

    assert content['state_dict']['weight'].tolist() == [1, 1]
    assert content['state_dict']['half'].dtype is torch.float16
    history = content['message_hub']['log_scalars']['train/loss']
    assert history.data[0].tolist() == [0.5, 0.25]
    assert history.mean() == 0.375
    assert history.statistics('max') == 0.5
    history.update(1.0)
    info = content['message_hub']['runtime_info']
    assert (info['lr'], info['half']) == (0.1, 0.5)
    assert type(info['lr']) is np.float64
    assert info['counts'].tolist() == [0, 1, 2]
    assert info['nothing'].shape == (0,)
    assert info['flags'].tolist() == [True, False]
    expected = np.random.RandomState(0).get_state()
    assert all(np.array_equal(a, b) for a, b in zip(info['random'], expected))
    assert content['meta'] == dict(epoch=1, seed=3, classes=('a', 'b'))


@pytest.mark.parametrize('anneal', ['cos', 'linear'])
def test_a_schedule_of_one_cycle_is_read(
    reader: None, anneal: str, tmp_path: Path
) -> None:
    optimizer = torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=0.1)
    settings = dict(eta_max=0.1, total_steps=8, anneal_strategy=anneal)
    schedule = OneCycleLR(optimizer, **settings)
    path = tmp_path / 'epoch_1.pth'
    torch.save(dict(param_schedulers=[schedule.state_dict()]), path)

    (state,) = read(path)['param_schedulers']

    schedule.load_state_dict(state)
    assert schedule.anneal_func(0.0, 1.0, 0.5) == 0.5


@pytest.fixture
def forgotten() -> Iterator[None]:
    """torch as it is before anything is allowed; restored afterwards."""
    if not HAS_STAND_INS:
        pytest.skip('this torch takes no stand-ins')
    allowed = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    yield
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(allowed)


def test_torch_itself_reads_the_files_of_mmengine(
    forgotten: None, tmp_path: Path
) -> None:
    path = tmp_path / 'epoch_1.pth'
    torch.save(mmengine_content(), path)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)

    allow_in_torch()

    assert torch.load(path, weights_only=True)['meta']['epoch'] == 1


# -- what must not ----------------------------------------------------------


class Call:
    """Pickles as a call that is made while unpickling."""

    def __init__(self, function: Any, *args: Any, state: Any = None) -> None:
        self.call = (function, args, state) if state else (function, args)

    def __reduce__(self) -> tuple:
        return self.call


class New(np.ndarray):
    """Pickles as ``numpy.ndarray.__new__(numpy.ndarray, *args)``."""

    def __new__(cls, *args: Any) -> New:
        made = super().__new__(cls, (0,))
        made.args = args
        return made

    def __reduce_ex__(self, protocol: Any) -> tuple:
        return copyreg.__newobj__, (np.ndarray, *self.args)

    @property
    def __class__(self) -> type:
        # What pickle compares the new object's class with.
        return np.ndarray


def evil(marker: Path) -> dict[str, tuple[Any, str]]:
    """What files ask for, and what the message says of it."""
    write = f'open({str(marker)!r}, "w").close()'
    inner = pickle.dumps(Call(os.system, f'touch {marker}'))
    history = HistoryBuffer()
    history.__dict__['x'] = Call(eval, write)
    objects = ((1,), 'O', b'\1' * 8)
    statistic = Call(getattr, HistoryBuffer, 'mean')
    return {
        'os.system': (Call(os.system, f'touch {marker}'), 'system'),
        'eval': (Call(eval, write), 'eval'),
        'exec': (Call(exec, write), 'exec'),
        'compile': (Call(compile, write, '', 'exec'), 'compile'),
        'import': (Call(__import__, 'antigravity'), '__import__'),
        'subprocess': (
            Call(subprocess.call, ['touch', str(marker)]),
            '.call',
        ),
        'pickle in a pickle': (Call(pickle.loads, inner), 'pickle.loads'),
        'torch.load': (
            Call(torch.load, '/etc/passwd'),
            'torch.serialization.load',
        ),
        'among weights': (
            OrderedDict(a=torch.ones(1), b=[{'c': Call(eval, write)}]),
            'eval',
        ),
        'inside a history': (history, 'eval'),
        'partial': (partial(os.system, f'touch {marker}'), 'partial'),
        'getattr of an array': (
            Call(getattr, np.ndarray, 'tofile'),
            "attribute 'tofile'",
        ),
        'getattr of a dunder': (
            Call(getattr, HistoryBuffer, '__init__'),
            "attribute '__init__'",
        ),
        'getattr of a method': (
            Call(getattr, HistoryBuffer, 'register_statistics'),
            "attribute 'register_statistics'",
        ),
        'getattr of an instance': (
            Call(getattr, HistoryBuffer(), 'mean'),
            "attribute 'mean'",
        ),
        'getattr chain': (
            Call(getattr, statistic, '__globals__'),
            "attribute '__globals__'",
        ),
        'objects at addresses': (Call(np.ndarray, *objects), 'an array of'),
        'new objects at addresses': (New(*objects), 'an array of'),
        'array of objects': (np.array([None, eval]), "type 'O8'"),
        'records': (np.zeros(1, [('a', 'f8')]), "type 'V8'"),
        'scalar object': (
            Call(np.float64(0).__reduce__()[0], np.dtype('O'), b'\1' * 8),
            "type 'O8'",
        ),
    }


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize('kind', list(evil(Path())))
def test_a_file_that_asks_for_more_is_refused_and_nothing_runs(
    reader: None, kind: str, zipped: bool, tmp_path: Path
) -> None:
    marker, path = tmp_path / 'ran', tmp_path / 'evil.pth'
    content, said = evil(marker)[kind]
    torch.save(
        dict(state_dict=content), path, _use_new_zipfile_serialization=zipped
    )

    with pytest.raises(UnsafeCheckpointError) as error:
        read(path)

    assert not marker.exists()
    message = str(error.value)
    assert message.startswith(f'{path} was refused: ')
    assert said in message
    assert '\n' not in message


class Ops:
    """Parts of handwritten pickles, protocol 2."""

    start, end = b'\x80\x02', b'.'
    history = b'cmmengine.logging.history_buffer\nHistoryBuffer\n'
    # A dict with the one entry mean=1, set as the state of what is before.
    build = b'}(X\x04\x00\x00\x00meanK\x01ub'


@pytest.mark.parametrize('target', [Ops.history, b'cnumpy\ndtype\n'])
def test_attributes_of_classes_and_functions_cannot_be_set(
    reader: None, target: bytes, tmp_path: Path
) -> None:
    path = tmp_path / 'evil.pth'
    with open(path, 'wb') as file:
        for part in (0x1950A86A20F9469CFC6C, 1001, {}):
            pickle.dump(part, file, protocol=2)
        file.write(Ops.start + target + Ops.build + Ops.end)

    with pytest.raises(UnsafeCheckpointError):
        read(path)
    assert callable(HistoryBuffer.mean)


def test_types_of_numbers_cannot_be_changed(
    reader: None, tmp_path: Path
) -> None:
    records = (3, '>', None, ('a',), {'a': (np.dtype('f8'), 10**6)}, -1, -1, 0)
    kind = Call(np.dtype, 'f8', False, True, state=records)
    path = tmp_path / 'evil.pth'
    torch.save(dict(state_dict=kind), path)

    assert read(path)['state_dict'] == np.float64
    assert np.dtype('f8').fields is None
    assert np.dtype('f8').isnative


def test_text_is_encoded_as_bytes_and_not_otherwise(tmp_path: Path) -> None:
    path = tmp_path / 'text.pth'
    torch.save(dict(a=Call(_codecs.encode, 'abc', 'rot13')), path)
    with pytest.raises(pickle.UnpicklingError, match="text as 'rot13'"):
        load_restricted(path)
    torch.save(dict(a=b'\xff'), path)
    assert load_restricted(path) == dict(a=b'\xff')


def test_a_history_does_not_change_how_others_compute(
    reader: None, tmp_path: Path
) -> None:
    history = HistoryBuffer()
    history._statistics_methods = {'mean': HistoryBuffer.max}
    path = tmp_path / 'history.pth'
    torch.save(dict(history=history), path)

    read(path)

    assert HistoryBuffer([1, 3], [1, 1]).statistics('mean') == 2


def test_a_process_that_has_made_no_history_reads_one_that_computes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a run is resumed: validation computes means by this name."""
    path = tmp_path / 'run.pth'
    torch.save(dict(history=HistoryBuffer([1, 3], [1, 1])), path)
    monkeypatch.setattr(HistoryBuffer, '_statistics_methods', {})

    assert read(path)['history'].statistics('mean') == 2


def test_text_that_resuming_would_run_is_left_out(
    reader: None, tmp_path: Path
) -> None:
    path = tmp_path / 'text.pth'
    torch.save(dict(meta=dict(config='raise SystemExit', cfg='a = 1')), path)
    assert read(path)['meta'] == dict(cfg='a = 1')


def test_programs_and_archives_are_refused(
    reader: None, tmp_path: Path
) -> None:
    marker = tmp_path / 'ran'
    program, archive = tmp_path / 'script.pth', tmp_path / 'tar.pth'
    torch.jit.save(torch.jit.script(nn.ReLU()), str(program))
    data = pickle.dumps(Call(os.system, f'touch {marker}'))
    with tarfile.open(archive, 'w') as tar:
        for name in ('sys_info', 'pickle', 'storages', 'tensors'):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))

    with pytest.raises(UnsafeCheckpointError, match='TorchScript program'):
        read(program)
    with pytest.raises(UnsafeCheckpointError, match='tar archive'):
        read(archive)
    assert not marker.exists()


def test_a_pickle_that_torch_did_not_write_is_refused(
    reader: None, tmp_path: Path
) -> None:
    marker, path = tmp_path / 'ran', tmp_path / 'plain.pth'
    for protocol in range(6):
        call = Call(os.system, f'touch {marker}')
        path.write_bytes(pickle.dumps(call, protocol=protocol))
        with pytest.raises(UnsafeCheckpointError, match='was refused'):
            read(path)
        assert not marker.exists()


@pytest.mark.parametrize('content', [b'<!DOCTYPE html>', b'model = dict()'])
def test_a_file_that_is_no_checkpoint_is_refused(
    reader: None, content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / 'page.pth'
    path.write_bytes(content)
    with pytest.raises(UnsafeCheckpointError) as error:
        read(path)
    start = f'it begins with {content[:8]!r}'
    assert (
        str(error.value) == f'{path} was refused: it is no checkpoint, {start}'
    )


def test_an_empty_file_is_called_so(reader: None, tmp_path: Path) -> None:
    (tmp_path / 'empty.pth').touch()
    with pytest.raises(UnsafeCheckpointError, match=r'it is empty \(0 bytes'):
        read(tmp_path / 'empty.pth')


def test_a_file_that_was_cut_off_is_refused(
    reader: None, tmp_path: Path
) -> None:
    path = tmp_path / 'cut.pth'
    torch.save(dict(a=torch.ones(1000)), path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(UnsafeCheckpointError, match='its end is missing'):
        read(path)


def test_all_that_a_file_asks_for_can_be_allowed_on_purpose(
    forgotten: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allow_in_torch()
    path = tmp_path / 'more.pth'
    torch.save(dict(a=Path('x'), b=Config(dict(c=1))), path)

    with pytest.raises(UnsafeCheckpointError) as error:
        read(path)
    named = str(error.value).split('add_safe_globals([')[1].split('])')[0]
    assert 'mmengine.config.config.Config' in named
    assert f'{PosixPath.__module__}.PosixPath' in named

    modules = {name.rsplit('.', 1)[0] for name in named.split(', ')}
    (tmp_path / 'what_i_trust.py').write_text(
        f'import torch, {", ".join(modules)}\n'
        f'torch.serialization.add_safe_globals([{named}])\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = tmp_path / 'config.py'
    config.write_text("custom_imports = dict(imports=['what_i_trust'])")
    Config.fromfile(config)

    assert read(path)['a'] == Path('x')


# -- hashes -----------------------------------------------------------------


def saved(folder: Path, name: str, content: Any = None) -> tuple[Path, str]:
    """A file with its hash in its name, and the hash."""
    path = folder / 'x.pth'
    torch.save(content or dict(state_dict=dict(a=torch.ones(1))), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return path.rename(folder / name.format(digest, digest[:8])), digest


@pytest.mark.parametrize(
    'name', ['a-{1}.pth', 'a_20210831-{1}.pth', 'a-{0}.pth']
)
def test_a_file_with_its_hash_in_its_name_is_read(
    name: str, tmp_path: Path
) -> None:
    path, _ = saved(tmp_path, name)
    assert read(path)['state_dict']['a'] == 1


@pytest.mark.parametrize('name', ['a-0123abc.pth', 'a_20210831.pth', 'a.pth'])
def test_a_name_without_hash_says_nothing(name: str, tmp_path: Path) -> None:
    path, _ = saved(tmp_path, name)
    assert read(path)['state_dict']['a'] == 1


@pytest.mark.parametrize('size', [8, 9, 64])
def test_another_hash_than_the_name_says_is_refused(
    size: int, tmp_path: Path
) -> None:
    wrong = '0123456789abcdef' * 4
    path, digest = saved(tmp_path, f'a-{wrong[:size]}.pth')
    with pytest.raises(UnsafeCheckpointError, match='rename it') as error:
        read(path)
    message = str(error.value)
    assert message.startswith(f'{path} was refused')
    assert f'starts with {wrong[:size]}, but it is {digest}' in message


# -- downloads --------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URL of the folder ``remote``; downloads go to ``hub``."""
    (tmp_path / 'remote').mkdir()
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path / 'hub'))
    monkeypatch.setenv('no_proxy', '127.0.0.1')

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

    handler = partial(Quiet, directory=str(tmp_path / 'remote'))
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as http_:
        thread = threading.Thread(target=http_.serve_forever, args=(0.01,))
        thread.start()
        yield f'http://127.0.0.1:{http_.server_port}'
        http_.shutdown()
        thread.join()


def test_a_download_is_read_and_kept(server: str, tmp_path: Path) -> None:
    path, _ = saved(tmp_path / 'remote', 'a-{1}.pth')
    url = f'{server}/{path.name}'
    assert read(url)['state_dict']['a'] == 1
    path.unlink()
    assert read(url)['state_dict']['a'] == 1
    assert sorted(p.name for p in (tmp_path / 'hub').rglob('*.pth')) == [
        path.name
    ]


def test_containers_that_share_a_folder_download_apart(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In each the process may have the same number."""
    path, _ = saved(tmp_path / 'remote', 'a-{1}.pth')
    targets: list[str] = []
    download = torch.hub.download_url_to_file

    def watched(url: str, target: str, *args: Any) -> None:
        targets.append(target)
        download(url, target, *args)

    monkeypatch.setattr(torch.hub, 'download_url_to_file', watched)
    for _ in range(2):
        read(f'{server}/{path.name}')
        next((tmp_path / 'hub').rglob('*.pth')).unlink()

    assert targets[0] != targets[1]


def test_a_download_with_another_hash_is_refused_and_not_kept(
    server: str, tmp_path: Path
) -> None:
    path, digest = saved(tmp_path / 'remote', 'a-01234567.pth')
    url = f'{server}/{path.name}?download=true'
    with pytest.raises(UnsafeCheckpointError, match=digest) as error:
        read(url)
    assert str(error.value).startswith(f'{url} was refused')
    assert not list((tmp_path / 'hub').rglob('*.pth'))


def test_a_download_that_was_changed_on_the_disk_is_refused(
    server: str, tmp_path: Path
) -> None:
    path, digest = saved(tmp_path / 'remote', 'a-{1}.pth')
    url = f'{server}/{path.name}'
    read(url)
    kept = next((tmp_path / 'hub').rglob('*.pth'))
    kept.write_bytes(kept.read_bytes() + b'\0')
    with pytest.raises(UnsafeCheckpointError, match=digest[:8]):
        read(url)


# -- roads ------------------------------------------------------------------


class Line(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, inputs: Any, mode: str = 'tensor') -> Any:
        return self.layer(inputs)


def runner(path: str, folder: Path, resume: bool) -> None:
    made = Runner(
        model=Line(),
        work_dir=str(folder / 'run'),
        load_from=path,
        resume=resume,
        default_scope='mmengine',
        experiment_name=f'{folder.name}{resume}',
    )
    made.load_or_resume()


CONFIG = dict(
    model=dict(
        type='ImageClassifier',
        backbone=dict(type='ResNet_CIFAR', depth=18),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=2, in_channels=512),
    )
)

ROADS = {
    'teacher_ckpt': lambda path, _: load_teacher_weights(Line(), path),
    'load_from': lambda path, folder: runner(path, folder, False),
    'resume': lambda path, folder: runner(path, folder, True),
    'init_cfg': lambda path, _: PretrainedInit(path)(Line()),
    'init_cfg with prefix': lambda path, _: PretrainedInit(
        path, prefix='backbone.'
    )(Line()),
    'get_model': lambda path, _: mmpretrain.get_model(
        Config(CONFIG), pretrained=path
    ),
    'export': lambda path, folder: export_student(path, f'{folder}/s.pth'),
}


@pytest.mark.parametrize('place', ['local', 'remote'])
@pytest.mark.parametrize('road', list(ROADS))
def test_no_road_runs_what_is_in_a_file(
    reader: None, road: str, place: str, server: str, tmp_path: Path
) -> None:
    marker = tmp_path / 'ran'
    path = tmp_path / 'remote' / 'evil.pth'
    torch.save(evil(marker)['os.system'][0], path)
    where = str(path) if place == 'local' else f'{server}/{path.name}'

    with pytest.raises(UnsafeCheckpointError, match=r'evil\.pth was refused'):
        ROADS[road](where, tmp_path)
    assert not marker.exists()


@pytest.mark.parametrize(
    'scheme', ['s3://x/', 'petrel://x/', 'openmmlab://', 'mmcls://']
)
def test_no_scheme_runs_what_is_in_a_file(
    reader: None,
    scheme: str,
    server: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    marker, path = tmp_path / 'ran', tmp_path / 'remote' / 'evil.pth'
    torch.save(evil(marker)['eval'][0], path)
    for name, value in dict(
        get_file_backend=lambda *_, **__: SimpleNamespace(
            get=lambda _: path.read_bytes()
        ),
        get_external_models=lambda: {'evil': str(path)},
        get_mmcls_models=lambda: {'evil': f'{server}/{path.name}'},
    ).items():
        monkeypatch.setattr(mmengine_checkpoint, name, value)

    with pytest.raises(UnsafeCheckpointError, match='eval'):
        read(f'{scheme}evil')
    assert not marker.exists()


def test_no_variable_of_the_environment_switches_the_check_off(
    reader: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    marker, path = tmp_path / 'ran', tmp_path / 'evil.pth'
    torch.save(evil(marker)['eval'][0], path)
    with pytest.raises(UnsafeCheckpointError):
        read(path)
    assert not marker.exists()


@pytest.mark.parametrize('road', list(ROADS))
def test_every_road_checks_the_hash(road: str, tmp_path: Path) -> None:
    path, digest = saved(tmp_path, 'a-01234567.pth')
    with pytest.raises(UnsafeCheckpointError, match=digest):
        ROADS[road](str(path), tmp_path)


@pytest.mark.parametrize('weights_only', [True, False])
def test_callers_that_name_weights_only_get_the_same_reader(
    weights_only, tmp_path
):
    """As onedl-mmengine 0.10.12 calls it."""
    from mmengine.runner import checkpoint

    safe, unsafe = tmp_path / 'safe.pth', tmp_path / 'unsafe.pth'
    torch.save({'weight': torch.ones(2)}, safe)
    torch.save({'weight': os.getcwd}, unsafe)

    read = checkpoint.torch.load(safe, 'cpu', weights_only=weights_only)
    assert read['weight'].tolist() == [1, 1]
    with pytest.raises(UnsafeCheckpointError, match='getcwd'):
        checkpoint.torch.load(unsafe, 'cpu', weights_only=weights_only)
