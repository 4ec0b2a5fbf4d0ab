# Copyright (c) The serkd_mm authors. All rights reserved.
"""The command ``serkd`` runs every tool."""

from __future__ import annotations

import argparse
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from serkd_mm import cli
from serkd_mm.paths import own_folder

from .jobs import ROOT, SERKD

PICTURE = str(ROOT / 'resources' / 'superpixels.png')


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


@pytest.mark.parametrize(
    'tool', [*sorted(t for t, _, _ in cli.COMMANDS.values()), 'quickstart']
)
def test_every_option_is_explained_and_tells_its_default(
    tool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsers: list[argparse.ArgumentParser] = []
    init = argparse.ArgumentParser.__init__

    def noted(self: argparse.ArgumentParser, *args: Any, **kw: Any) -> None:
        init(self, *args, **kw)
        parsers.append(self)

    monkeypatch.setattr(argparse.ArgumentParser, '__init__', noted)
    path = own_folder('tools') / f'{tool}.py'
    monkeypatch.setattr(sys, 'argv', [str(path), '--help'])
    with pytest.raises(SystemExit):
        runpy.run_path(str(path), run_name='__main__')

    actions = [action for parser in parsers for action in parser._actions]
    assert len(actions) > 1
    for action in actions:
        if action.default is argparse.SUPPRESS or action.dest == 'command':
            continue
        assert action.help, action
        if action.default not in (None, False, {}):
            assert 'default' in action.help, action


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


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['train', 'no.py'], 'no.py'),
        (['train', str(Path(__file__).parents[1] / 'LICENSE')], 'a file of'),
        (['test', 'serkd_mm::no.py', 'a.pth'], 'no.py is no config'),
        (['export', 'no.pth', 'out.pth'], "checkpoint 'no.pth' does not"),
        (['export', __file__, 'out.pth'], 'is no checkpoint'),
        (['report', 'no'], 'no is no folder'),
        (['plot', 'no'], 'no is no folder'),
    ],
)
def test_what_is_not_there_is_one_line(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit, match=f'^error: .*{message}') as caught:
        run(monkeypatch, *arguments)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
    ('item', 'name'), [('metrics', 'out.txt'), ('pred', 'out.json')]
)
def test_a_result_that_cannot_be_written_is_refused_before_the_test(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    item: str,
    name: str,
) -> None:
    out = ('--out', name, '--out-item', item)
    with pytest.raises(SystemExit):
        run(monkeypatch, 'test', 'config.py', 'a.pth', *out)
    assert f'--out {name}: --out-item {item} is written to' in (
        capsys.readouterr().err
    )


def test_a_quick_start_within_the_warm_up_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    tool = own_folder('tools') / 'quickstart.py'
    monkeypatch.setattr(sys, 'argv', [str(tool), '--epochs', '5'])
    with pytest.raises(SystemExit):
        runpy.run_path(str(tool), run_name='__main__')
    assert '--epochs must be above 5' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('command', 'block', 'options', 'said'),
    [
        ('train', 'model', ['--amp'], 'has no model; name one that says'),
        ('train', 'optim_wrapper', ['--amp'], 'has no optim_wrapper beside'),
        (
            'train',
            'train_dataloader',
            ['--skip-broken-images'],
            'has no train_dataloader beside',
        ),
        (
            'train',
            'auto_scale_lr',
            ['--auto-scale-lr'],
            '--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...)',
        ),
        ('test', 'model', ['none.pth'], 'has no model'),
        ('visualize', 'model', ['none.pth', PICTURE], 'has no model'),
    ],
)
def test_a_block_that_is_missing_is_named_whatever_the_options(
    command: str,
    block: str,
    options: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    config = tmp_path / 'config.py'
    config.write_text(f'_base_ = {SERKD!r}\n{block} = None\n')
    monkeypatch.setenv('LOCAL_RANK', '0')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, command, str(config), *options)
    assert ended.value.code
    assert said in capsys.readouterr().err + str(ended.value.code)
