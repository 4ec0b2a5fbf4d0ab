# Copyright (c) The serkd_mm authors. All rights reserved.
"""The command ``serkd`` runs every tool."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from serkd_mm import cli
from serkd_mm.paths import own_folder


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, 'argv', ['serkd', *arguments])
    cli.main()


@pytest.mark.parametrize('command', sorted(cli.COMMANDS))
def test_every_command_explains_itself(
    command: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, command, '--help')
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    tool = f'{cli.COMMANDS[command][0]}.py'
    assert f'usage: {tool}' in shown
    # One example each.
    assert f'python tools/{tool} ' in shown


@pytest.mark.parametrize('arguments', [(), ('--help',)])
def test_without_a_command_it_lists_them(
    arguments: tuple,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    run(monkeypatch, *arguments)
    shown = capsys.readouterr().out
    for command in cli.COMMANDS:
        assert f'serkd {command} ' in shown
    assert max(map(len, shown.splitlines())) <= 79


def test_an_unknown_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        SystemExit, match="no command 'trian'; there are train"
    ):
        run(monkeypatch, 'trian')


def test_arguments_reach_the_tool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        SystemExit, match=f'no run has logged below {tmp_path}'
    ):
        run(monkeypatch, 'report', str(tmp_path))


def test_every_tool_has_a_command() -> None:
    tools = {path.stem for path in own_folder('tools').glob('*.py')}
    hidden = {'launch', 'quickstart'}  # Parts of shell scripts.
    assert tools - hidden == {tool for tool, _, _ in cli.COMMANDS.values()}
