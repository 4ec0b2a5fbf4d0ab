# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.fileio import get_file_backend, put, put_text

from serkd_mm.engine import atomic_backend
from serkd_mm.engine.atomic_backend import (
    AtomicLocalBackend,
    remove_partial_files,
)

# Ends itself by SIGKILL after the first half of the second file. By then
# MMEngine has made a backend of its own, for the first one.
KILLED = """
import os, signal, sys
from mmengine.fileio import put

put(b'old' * 10_000, sys.argv[1])

from serkd_mm.engine import atomic_backend

def half(path, data):
    with open(path, 'wb') as file:
        file.write(data[: len(data) // 2])
        file.flush()
        os.fsync(file.fileno())
        os.kill(os.getpid(), signal.SIGKILL)

atomic_backend._write = half
put(b'new' * 10_000, sys.argv[1])
"""


def test_every_local_file_of_mmengine_is_written_by_it(
    tmp_path: Path,
) -> None:
    for arguments in (None, dict(backend='local')):
        backend = get_file_backend(
            str(tmp_path / 'file'), backend_args=arguments
        )
        assert isinstance(backend, AtomicLocalBackend)


def test_files_are_written_and_replaced(tmp_path: Path) -> None:
    target = tmp_path / 'folder' / 'file'

    put(b'old', target)
    put_text('neu, mit ä', target)

    assert target.read_text(encoding='utf-8') == 'neu, mit ä'
    assert os.listdir(target.parent) == ['file']


def test_folders_on_the_way_are_made(tmp_path: Path) -> None:
    put(b'new', tmp_path / 'one' / 'two' / 'file')

    assert (tmp_path / 'one' / 'two' / 'file').read_bytes() == b'new'


def test_text_is_written_in_the_encoding_asked_for(tmp_path: Path) -> None:
    backend = get_file_backend(str(tmp_path))

    backend.put_text('ä', tmp_path / 'file', encoding='latin-1')

    assert (tmp_path / 'file').read_bytes() == b'\xe4'


def test_links_and_permissions_stay(tmp_path: Path) -> None:
    target, link = tmp_path / 'target', tmp_path / 'link'
    target.write_bytes(b'old')
    target.chmod(0o640)
    link.symlink_to(target)

    put(b'new', link)

    assert link.is_symlink()
    assert target.read_bytes() == b'new'
    assert target.stat().st_mode & 0o777 == 0o640


def test_what_is_no_regular_file_is_written_to() -> None:
    put(b'nowhere', os.devnull)

    assert not Path(os.devnull).is_file()


def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / 'file'
    put(b'old', target)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(OSError, match='No space left'):
        put(b'new', target)

    assert target.read_bytes() == b'old'
    assert os.listdir(tmp_path) == ['file']


def test_an_interrupted_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, 'fsync', interrupt)
    with pytest.raises(KeyboardInterrupt):
        put(b'new', tmp_path / 'file')

    assert os.listdir(tmp_path) == []


def test_what_forbids_to_begin_a_file_is_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbid(path: Path, data: bytes) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(atomic_backend, '_write', forbid)
    with pytest.raises(OSError, match='Read-only file system'):
        put(b'new', tmp_path / 'file')


def test_a_file_and_then_its_name_are_flushed_to_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync, flushed = os.fsync, []

    def note(descriptor: int) -> None:
        there = (tmp_path / 'file').exists()
        size = os.fstat(descriptor).st_size
        folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        flushed.append((there, 'folder' if folder else size))
        fsync(descriptor)

    monkeypatch.setattr(os, 'fsync', note)
    put(b'new', tmp_path / 'file')

    assert flushed == [(False, len(b'new')), (True, 'folder')]


@pytest.mark.skipif(not os.path.isdir('/proc/self/fd'), reason='needs Linux')
def test_no_file_stays_open(tmp_path: Path) -> None:
    before = os.listdir('/proc/self/fd')

    put(b'new', tmp_path / 'file')

    assert len(os.listdir('/proc/self/fd')) == len(before)


def test_only_hidden_files_are_leftovers(tmp_path: Path) -> None:
    (tmp_path / 'notes.partial').write_text('of the user')

    assert remove_partial_files(tmp_path) == []
    assert os.listdir(tmp_path) == ['notes.partial']


def test_a_writer_killed_halfway_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / 'file'

    done = subprocess.run([sys.executable, '-c', KILLED, str(target)])

    assert done.returncode == -signal.SIGKILL
    assert target.read_bytes() == b'old' * 10_000
    (left,) = set(tmp_path.iterdir()) - {target}
    assert left.stat().st_size == 15_000
    assert remove_partial_files(tmp_path) == [left]
    assert os.listdir(tmp_path) == ['file']


def test_a_disk_that_cannot_flush_folders_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def of_files_only(descriptor: int) -> None:
        if os.path.isdir(f'/proc/self/fd/{descriptor}'):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(descriptor)

    monkeypatch.setattr(atomic_backend.os, 'fsync', of_files_only)

    put(b'new', tmp_path / 'file')

    assert (tmp_path / 'file').read_bytes() == b'new'
