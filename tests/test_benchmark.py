# Copyright (c) The serkd_mm authors. All rights reserved.
"""The benchmark runs, and compares things that compute the same."""

from __future__ import annotations

import importlib.util
import json
import logging
import re
from pathlib import Path
from types import ModuleType
from typing import Callable

import pytest
import torch
from mmengine.logging import MMLogger
from torch import Tensor

from serkd_mm import functional
from serkd_mm.benchmarks import (
    ceilings,
    libraries,
    library_kd,
    library_rkd,
    measure,
    networks,
    peers,
    relation,
    report,
    step,
    straightforward,
)

TOOL = Path(__file__).resolve().parents[1] / 'tools' / 'benchmark.py'
COLUMNS = {
    'relation': {'median ms', 'q1', 'q3', 'ratio', 'extra MiB'},
    'superpixel': {'median ms', 'q1', 'q3', 'ratio', 'extra MiB'},
    'step': {'median ms', 'q1', 'q3', 'ratio', 'peak MiB'},
    'peers': {'images/s', 'median ms', 'ratio', 'peak MiB'},
}


@pytest.fixture(scope='module')
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location('_benchmark', TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _errors_only() -> None:
    MMLogger.get_current_instance().setLevel(logging.ERROR)


@pytest.mark.parametrize('name', sorted(COLUMNS))
def test_subcommand_writes_and_prints_what_it_found(
    tool: ModuleType,
    name: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    arguments = [name, '--quick', '--threads', '1', '--out', str(tmp_path)]
    tool.main(arguments)
    # Not in the place of true results.
    stem = f'{name}_{report.slug(report.device_name("cpu"))}_quick'
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {f'{stem}.{kind}' for kind in ('json', 'md', 'png')}
    text = (tmp_path / f'{stem}.md').read_text()
    assert capsys.readouterr().out.strip() == text.strip()
    found = json.loads((tmp_path / f'{stem}.json').read_text())
    assert found['benchmark'] == name
    assert found['options']['quick'] is True
    assert found['environment']['torch'] == torch.__version__
    assert name in found['environment']['command']
    assert set(found['tables'][0]['rows'][0]) >= COLUMNS[name]
    for goal in found['goals']:
        assert {'what', 'bound', 'measured', 'reached'} <= set(goal)
    lines = re.findall(
        r'- goal: [<>]= .*: (?:not judged at these sizes|not run, no CUDA.*)',
        text,
    )
    assert len(lines) == len(found['goals'])


def value_and_grad(
    loss: Callable[[Tensor, Tensor], Tensor], student: Tensor, teacher: Tensor
) -> tuple[Tensor, Tensor]:
    student = student.clone().requires_grad_()
    value = 3 * loss(student, teacher)
    return value.detach(), torch.autograd.grad(value, student)[0]


@pytest.mark.parametrize(
    ('name', 'variant'),
    [
        ('angle_loss', relation.BASELINE),
        ('distance_loss', relation.BASELINE),
        ('distance_loss', relation.PRODUCTS),
    ],
)
def test_straightforward_loss_agrees_with_the_package(
    name: str, variant: str
) -> None:
    student = torch.randn(3, 10, 6, dtype=torch.float64)
    teacher = torch.randn(3, 10, 9, dtype=torch.float64)
    expected = value_and_grad(getattr(functional, name), student, teacher)
    loss = relation.select(name, variant)
    found = value_and_grad(loss, student, teacher)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_loop_over_images_gives_the_gradient_of_the_batch() -> None:
    grads = []
    for images in (5, 2):
        torch.manual_seed(0)
        run = relation.prepare(
            'angle_loss', relation.BASELINE, (5, 6, 3, 4), 'cpu', images
        )
        run()
        closure = dict(
            zip(run.__code__.co_freevars, run.__closure__)  # type: ignore
        )
        grads.append(closure['student'].cell_contents.grad)
    torch.testing.assert_close(grads[0], grads[1])


@pytest.mark.parametrize('differentiable', [True, False])
def test_unfolded_superpixels_agree_away_from_the_border(
    differentiable: bool,
) -> None:
    # Zero padding takes mass from tokens in cells at the border; superpixels
    # two cells away from it hold none of those tokens.
    tokens = torch.randn(2, 14 * 14, 8, dtype=torch.float64)
    above = torch.randn(2, 3, 3, 8, dtype=torch.float64)
    found = []
    for function in (
        straightforward.superpixel_tokens,
        functional.superpixel_tokens,
    ):
        leaf = tokens.clone().requires_grad_()
        superpixels = function(
            leaf, (14, 14), differentiable_assignment=differentiable
        )
        inside = superpixels.unflatten(1, (7, 7))[:, 2:-2, 2:-2]
        (inside * above).sum().backward()
        found.append((inside.detach(), leaf.grad))
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-12)


def losses_of_three_steps(variant: str) -> list[float]:
    one_step, cfg = step.build_step('serkd_deit-ti.py', variant, 'cpu', True)
    return [
        one_step(networks.random_batch(cfg, 4, seed)).item()
        for seed in range(3)
    ]


def test_hand_written_loop_trains_as_the_algorithm_does() -> None:
    by_hand = losses_of_three_steps(step.HAND)
    plain = losses_of_three_steps(step.PLAIN)
    assert by_hand == pytest.approx(plain, rel=1e-5)
    assert losses_of_three_steps(step.FULL)[0] > plain[0]


def test_peer_computes_the_same_losses_on_the_same_teacher_logits() -> None:
    built = {v: peers.build(v, 'cpu', True) for v in peers.VARIANTS}
    ours, *hosts = (built[v][0] for v in (peers.OURS, peers.HOST, peers.MIXED))
    for host in hosts:
        networks.share_weights(ours, host)
        host.teacher.eval()
    losses = []
    for model in (ours, *hosts):
        data = networks.random_batch(built[peers.OURS][1], 2, 0)
        data = model.data_preprocessor(data, training=True)
        losses.append({
            name: loss.item()
            for name, loss in model(**data, mode='loss').items()
            if 'loss' in name
        })  # fmt: skip
    for of_host in losses[1:]:
        assert losses[0] == pytest.approx(of_host, rel=1e-4)


def needs(library: str) -> pytest.MarkDecorator:
    absent = libraries.version(library) is None
    return pytest.mark.skipif(absent, reason=f'needs {library}')


LIBRARIES = [
    libraries.HOST,
    pytest.param(libraries.TORCHDISTILL, marks=needs('torchdistill')),
]
TIMM = pytest.param(libraries.TIMM, marks=needs('timm'))


@pytest.mark.parametrize('library', [*LIBRARIES, TIMM])
def test_kd_of_a_library_is_that_of_the_package(library: str) -> None:
    ours, theirs = (
        library_kd.build_training(name, 'cpu', True)
        for name in (libraries.OURS, library)
    )
    networks.share_weights(ours.model, theirs.model)
    # Only timm sees to it itself.
    assert theirs.model.teacher.training == (library != libraries.TIMM)
    theirs.model.teacher.eval()
    losses = [
        training.step(networks.random_batch(ours.cfg, 4, 0)).item()
        for training in (ours, theirs)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


@pytest.mark.parametrize('library', [libraries.OURS, *LIBRARIES])
def test_rkd_of_a_library_agrees_with_the_exact_one(library: str) -> None:
    teacher = torch.randn(6, 5, dtype=torch.float64)
    found, exact = [
        value_and_grad(loss, torch.arange(24).view(6, 4).sin(), teacher)
        for loss in (library_rkd.rkd_loss(library), library_rkd.exact_rkd)
    ]
    torch.testing.assert_close(found, exact, rtol=1e-5, atol=1e-6)


def test_a_library_that_is_not_installed_is_left_out_and_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(libraries, 'version', lambda name: None)
    found = report.Report('peers', measure.Options(quick=True))
    peers.add_libraries(found)
    for table in found.tables:
        names = [row['variant'] for row in table.rows]
        assert names == [libraries.HOST, libraries.OURS]
    assert found.notes[-1] == (
        'Not installed and left out: timm, torchdistill (pip install timm '
        'torchdistill).'
    )


def prepare_memory(mib: int) -> measure.Run:
    """Module level: the measuring process imports it."""
    kept = torch.ones(8 * measure.MIB // 4)
    return lambda: torch.ones(mib * measure.MIB // 4).add_(kept[0])


def test_peak_memory_tells_work_from_inputs() -> None:
    memory = measure.peak_memory(
        prepare_memory, dict(mib=40), measure.Options(), warm=dict(mib=1)
    )
    assert memory.extra == pytest.approx(40, abs=2)
    assert memory.total == pytest.approx(48, abs=3)


def test_peak_memory_is_the_median_of_processes(monkeypatch) -> None:
    found = iter([(70.0, 7.0), (50.0, 9.0), (51.0, 5.0)])
    monkeypatch.setattr(measure, '_in_process', lambda *_: next(found))
    memory = measure.peak_memory(prepare_memory, {}, measure.Options(), {})
    assert memory == measure.Memory(total=51.0, extra=7.0, spread=20.0)


def test_least_time_counts_triples_and_pairs() -> None:
    cost = ceilings.Cost(operations=28, cache_bytes=4, memory_bytes=24)
    rates = dict(operations=7e6, cache=2e6, memory=1e6)
    least = cost.milliseconds(2, 10, rates)
    assert least == pytest.approx(dict(operations=8.0, cache=4.0, memory=4.8))


def test_rounds_are_interleaved_after_a_warm_up() -> None:
    calls: list[str] = []
    runs = {name: (lambda name=name: calls.append(name)) for name in 'abc'}
    times = measure.interleaved(runs, 3, measure.Options(quick=True))
    assert ''.join(calls) == 'abc' * 4
    assert [len(samples) for samples in times.values()] == [3, 3, 3]


def test_a_short_run_repeats_and_its_time_is_that_of_one_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [0.0]
    seconds = {'short': 0.03, 'long': 0.3}
    calls: list[str] = []

    def make_run(name: str) -> measure.Run:
        def run() -> None:
            calls.append(name)
            # The first call of all is slower.
            clock[0] += seconds[name] * (2 if len(calls) == 1 else 1)

        return run

    monkeypatch.setattr(measure.time, 'perf_counter', lambda: clock[0])
    runs = {name: make_run(name) for name in seconds}
    times = measure.interleaved(runs, 2, measure.Options())
    for name in seconds:
        assert times[name] == pytest.approx([1e3 * seconds[name]] * 2)
    # 0.2 s hold 7 short calls.
    assert calls.count('short') == 2 + 2 * 7
    assert calls.count('long') == 3


@pytest.mark.parametrize('fastest', ['triton', 'chunked'])
def test_the_kernels_goal_is_not_judged_by_what_stands_in_for_it(
    fastest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relation, 'fastest', lambda options: fastest)
    found = report.Report('relation', measure.Options(device='cuda'))
    relation._cuda_goals(found, 1.5)
    (goal,) = found.goals
    assert goal.reached == (fastest == 'triton')
    assert ('is missing' in goal.line()) == (fastest == 'chunked')


@pytest.mark.parametrize(
    ('measured', 'line'),
    [
        (71.0, 'goal: >= 80x speed; measured 71x: not reached, too slow'),
        (80.0, 'goal: >= 80x speed; measured 80x: reached'),
        (None, 'goal: >= 80x speed: not run, too slow'),
    ],
)
def test_goal_says_whether_it_is_reached(
    measured: float | None, line: str
) -> None:
    goal = report.Goal('speed', 80.0, measured, reason='too slow')
    assert goal.line() == line


def test_a_folder_that_cannot_be_made_is_refused_before_measuring(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / 'file').touch()
    with pytest.raises(SystemExit):
        tool.main(['relation', '--out', str(tmp_path / 'file')])
    said = capsys.readouterr().err
    assert "file' (File exists); name another folder" in said


@pytest.mark.parametrize(
    'arguments', [['--threads', '0'], ['--repeats', '-1'], ['--repeats', '0']]
)
def test_numbers_below_one_are_refused(
    tool: ModuleType, arguments: list[str], capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit):
        tool.main(['step', *arguments])
    assert f'{arguments[0]} must be at least 1' in capsys.readouterr().err
