# Copyright (c) The serkd_mm authors. All rights reserved.
"""What cannot be written is said before anything is computed."""

from __future__ import annotations

import json
import os
import runpy
import sys
from pathlib import Path

import pytest

from serkd_mm.outputs import check_out_file, check_out_folder

ROOT = Path(__file__).resolve().parents[1]


def test_a_folder_is_made(tmp_path: Path) -> None:
    check_out_folder(tmp_path / 'a' / 'b', '--out')
    check_out_file(tmp_path / 'c' / 'file.png', '--out')
    assert [p.name for p in (tmp_path / 'a').iterdir()] == ['b']
    assert not [*(tmp_path / 'a' / 'b').iterdir()]
    assert not [*(tmp_path / 'c').iterdir()]


@pytest.mark.parametrize(
    ('name', 'said'),
    [
        ('folder', r"^--out: '.*folder' is a folder; name a file$"),
        (
            'file/b.png',
            r"^--out: .*into '.*file' \(.*\); name another folder$",
        ),
        ('/proc/b.png', r"^--out: nothing can be written into '/proc' \("),
    ],
)
def test_a_file_that_cannot_be_written_is_named(
    name: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'file').touch()
    with pytest.raises(ValueError, match=said):
        check_out_file(tmp_path / name, '--out')


def test_a_file_that_may_not_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / 'kept.png'
    check_out_file(path, '--out')
    path.touch()
    check_out_file(path, '--out')
    # Which the superuser may always.
    monkeypatch.setattr(os, 'access', lambda *_: False)
    with pytest.raises(ValueError, match=r"^--out: '.*kept.png' may not be"):
        check_out_file(path, '--out')


@pytest.mark.parametrize(
    'arguments',
    [
        ['check_pair', 'missing.py', '--json', 'file/x.json'],
        ['check_pair', '--suggest', 'a', 'b', '--out', 'file/x.py'],
        ['ablate', 'run', 'digits', '--out', 'file/x'],
        ['ablate', 'run', 'digits', '--save', 'file/x'],
        ['export_student', 'missing', 'file/x.pth'],
        ['plot_logs', 'run', '--out', 'file/x.png'],
        ['quickstart', '--out', 'file/x'],
        ['report', 'run', '--out', 'file/x.html'],
        ['visualize_superpixels', 'missing.py', 'c', 'i', '--out', 'file/x'],
    ],
    ids=lambda arguments: arguments[0],
)
def test_every_tool_says_it_first(
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    """Before it misses what it is to work on."""
    (tmp_path / 'file').touch()
    log = tmp_path / 'run' / '20260101_000000' / 'vis_data' / 'scalars.json'
    log.parent.mkdir(parents=True)
    log.write_text(json.dumps(dict(loss=1.0, epoch=1, iter=1, step=1)))
    monkeypatch.chdir(tmp_path)
    tool = ROOT / 'tools' / f'{arguments[0]}.py'
    monkeypatch.setattr(sys, 'argv', [str(tool), *arguments[1:]])

    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(tool), run_name='__main__')

    said = f'{stop.value}{capsys.readouterr().err}'
    assert "nothing can be written into 'file" in said
    assert (tmp_path / 'file').is_file()
