# Copyright (c) The serkd_mm authors. All rights reserved.
"""What the tools make of a config before they run it."""

from __future__ import annotations

import gc
import os
import runpy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS as RUNNER_MODELS
from mmengine.registry import DefaultScope
from mmrazor.registry import MODELS
from torch import distributed, nn
from torch.distributed.elastic.multiprocessing.errors import (
    ChildFailedError,
    ProcessFailure,
)
from torch.nn.parallel import DistributedDataParallel

from serkd_mm.engine.config_file import read_config
from serkd_mm.engine.launch import (
    build_runner,
    check_device_count,
    clean_exit,
    fill_input_size,
    leave_teacher_out,
    resume_after_restart,
    train,
)
from tests.jobs import threads_left_of_gloo, threads_of_gloo
from tests.models.builders import (
    algorithm_config,
    cnn_config,
    cnn_distiller,
)

from .runs import Points

LAUNCHER = Path(__file__).parents[2] / 'tools' / 'launch.py'

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'


def test_the_student_is_tested_without_a_trace_of_its_teacher(
    capfd: pytest.CaptureFixture,
) -> None:
    cfg = Config.fromfile(CONFIGS / 'quickstart' / 'serkd.py')
    trained = cfg.copy().model
    trained.update(teacher_ckpt=None, allow_random_teacher=True)
    trained.data_preprocessor = cfg.data_preprocessor
    trained = MODELS.build(trained).eval()
    raw = dict(inputs=torch.randint(0, 256, (2, 3, 32, 32)))
    cfg.model.teacher.cfg_path = 'a/teacher/that/is/not/here.py'
    capfd.readouterr()

    leave_teacher_out(cfg)
    student = MODELS.build(cfg.model).eval()
    loaded = student.load_state_dict(trained.state_dict(), strict=False)

    assert 'eacher' not in str(cfg.model) + ''.join(capfd.readouterr())
    assert loaded.missing_keys == []
    assert {key.split('.')[0] for key in loaded.unexpected_keys} == {
        'distiller'
    }
    with torch.no_grad():
        logits = [
            model(model.data_preprocessor(raw)['inputs'])
            for model in (student, trained)
        ]
    assert torch.equal(*logits)


def test_a_student_of_the_default_scope_is_tested_without_its_teacher() -> (
    None
):
    cfg = Config.fromfile(CONFIGS / 'quickstart' / 'serkd.py')
    for part in (cfg.model, cfg.model.architecture):
        part.pop('_scope_')
    cfg.model.type = 'mmrazor.FrozenTeacherDistill'

    leave_teacher_out(cfg)

    # A runner builds in the scope of the config.
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        student = RUNNER_MODELS.build(cfg.model)
    assert type(student.architecture).__name__ == 'ImageClassifier'


def test_a_config_without_teacher_is_tested_as_it_is() -> None:
    cfg = Config.fromfile(CONFIGS / 'quickstart' / 'student.py')
    before = cfg.pretty_text

    leave_teacher_out(cfg)

    assert cfg.pretty_text == before


def test_an_epoch_without_batches_does_not_begin(tmp_path: Path) -> None:
    cfg = Config.fromfile(CONFIGS / 'quickstart' / 'student.py')
    cfg.work_dir = str(tmp_path)
    cfg.train_dataloader.update(batch_size=2000, drop_last=True)

    with pytest.raises(ValueError, match='gives 0 batches: 1000 images per'):
        train(cfg)

    assert not list(tmp_path.glob('**/*.pth'))


def test_randomness_needs_no_seed(tmp_path: Path) -> None:
    cfg = Config.fromfile(CONFIGS / 'quickstart' / 'student.py')
    cfg.work_dir = str(tmp_path)
    cfg.randomness = dict(diff_rank_seed=False)
    assert isinstance(build_runner(cfg).seed, int)


def test_none_leaves_a_default_hook_out(tmp_path: Path) -> None:
    """MMEngine has it so for its own, and asserts of others."""
    cfg = Config.fromfile(CONFIGS / 'quickstart' / 'student.py')
    cfg.work_dir = str(tmp_path)
    cfg.default_hooks.update(timer=None, exact_resume=None, visualization=None)
    names = {type(hook).__name__ for hook in build_runner(cfg).hooks}
    assert 'StopOnSignalHook' in names
    assert not names & {'IterTimerHook', 'ExactResumeHook'}


def test_what_does_not_fit_shows_before_data_is_read(tmp_path: Path) -> None:
    # Neither network says the size of its images.
    cfg = Config.fromfile(CONFIGS / 'quickstart' / 'serkd.py')
    cfg.work_dir = str(tmp_path)
    cfg.model = algorithm_config(
        architecture=cnn_config(),
        teacher=cnn_config(),
        distiller=cnn_distiller(stride=3),
    )
    cfg.train_dataloader.dataset = dict(
        type='CustomDataset',
        data_root='not/read/before',
        pipeline=[dict(type='Resize', scale=32), dict(type='PackInputs')],
    )

    with pytest.raises(ValueError, match='stride'):
        train(cfg)


def test_the_size_is_that_of_the_training_pipeline() -> None:
    cfg = Config.fromfile(CONFIGS / 'quickstart' / 'serkd.py')
    fill_input_size(cfg)
    assert cfg.model.input_size == (32, 32)
    # One that is there stays, that of none too.
    cfg.model.input_size = 0
    fill_input_size(cfg)
    assert cfg.model.input_size == 0


@pytest.mark.parametrize(
    'changes',
    [
        dict(model=dict(type='mmrazor.SingleTeacherDistill')),
        dict(model=dict(type='ImageClassifier')),
        dict(model=None),
        dict(train_dataloader=None),
        dict(train_dataloader=dict(dataset=Points())),
        dict(train_dataloader=dict(dataset=dict(datasets=[]))),
        dict(
            train_dataloader=dict(
                dataset=dict(pipeline=[dict(type='PackInputs')])
            )
        ),
    ],
)
def test_a_size_that_nothing_tells_stays_open(changes: dict) -> None:
    cfg = Config.fromfile(CONFIGS / 'quickstart' / 'serkd.py')
    for key, value in changes.items():
        cfg[key] = value
    fill_input_size(cfg)
    assert 'input_size' not in (cfg.model or {})


@pytest.fixture
def used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A launched job in a work dir with a checkpoint that is 60 s old."""
    last = tmp_path / 'last_checkpoint'
    last.write_text('epoch_1.pth')
    os.utime(last, (1e9 - 60, 1e9 - 60))
    monkeypatch.setenv('SERKD_MM_STARTED', repr(1e9))
    return Config(
        dict(work_dir=str(tmp_path), resume=False, load_from='start.pth')
    )


def test_a_job_goes_on_from_its_own_checkpoint(used: Config) -> None:
    os.utime(Path(used.work_dir) / 'last_checkpoint', (1e9 + 60, 1e9 + 60))
    resume_after_restart(used)
    assert (used.resume, used.load_from) == (True, None)


def test_a_checkpoint_of_an_earlier_run_is_not_the_jobs(used: Config) -> None:
    resume_after_restart(used)
    assert (used.resume, used.load_from) == (False, 'start.pth')


def test_a_job_without_checkpoint_starts_again(used: Config) -> None:
    (Path(used.work_dir) / 'last_checkpoint').unlink()
    resume_after_restart(used)
    assert (used.resume, used.load_from) == (False, 'start.pth')


def test_without_launcher_only_the_option_resumes(
    used: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv('SERKD_MM_STARTED')
    resume_after_restart(used)
    assert (used.resume, used.load_from) == (False, 'start.pth')


def test_a_process_group_ends_after_the_garbage_collector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Inside it the threads would need the interpreter that waits for them.
    distributed.init_process_group(
        'gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1
    )
    model = DistributedDataParallel(nn.Linear(4, 4), broadcast_buffers=False)
    runner: list = [model]
    runner.append(runner)
    if not threads_of_gloo():
        distributed.destroy_process_group()
        pytest.skip('threads have no names in this PyTorch or system')
    del model, runner
    left: list[int] = []
    collect = gc.collect

    def watched() -> None:
        collect()
        left.append(threads_of_gloo())

    monkeypatch.setattr(gc, 'collect', watched)
    with clean_exit():
        pass

    assert left[0] > 0
    assert threads_left_of_gloo() == 0


@pytest.mark.parametrize(
    ('exitcode', 'ends_as'), [(143, SystemExit), (255, ChildFailedError)]
)
def test_a_code_that_is_no_signal_stays_an_error(
    exitcode: int, ends_as: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        failure = ProcessFailure(0, 1, exitcode, 'none')
        raise ChildFailedError('train.py', {0: failure})

    monkeypatch.setenv('SERKD_MM_STARTED', '')
    monkeypatch.setattr('torch.distributed.run.main', fail)
    with pytest.raises(ends_as):
        runpy.run_path(str(LAUNCHER), run_name='__main__')


def test_a_module_of_ones_own_that_is_not_found_is_named(
    tmp_path: Path,
) -> None:
    path = tmp_path / 'config.py'
    path.write_text("custom_imports = dict(imports=['my_lss'])\n")
    with pytest.raises(
        ValueError, match="No module named 'my_lss'; put .* into PYTHONPATH"
    ):
        read_config(str(path))


def test_a_config_of_the_package_before_mmpretrain_says_so() -> None:
    """MMRazor's own ones are among them."""
    name = 'mmrazor::distill/mmcls/kd/kd_logits_resnet34_resnet18_8xb32_in1k'
    with pytest.raises(
        ValueError,
        match='mmcls is what mmpretrain was called, so write mmpretr',
    ):
        read_config(f'{name}.py')


@pytest.mark.parametrize(('gpus', 'refused'), [(0, False), (2, True)])
def test_more_processes_than_gpus_are_refused(
    gpus: int, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '3')
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: gpus)
    check_device_count('none')
    if refused:
        with pytest.raises(ValueError, match='3 processes .* 2 visible GPUs;'):
            check_device_count('pytorch')
    else:
        check_device_count('pytorch')
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '2')
    check_device_count('pytorch')


def test_a_deterministic_run_gets_the_workspace_that_cublas_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = 'CUBLAS_WORKSPACE_CONFIG'
    monkeypatch.setenv(name, '')  # put back as it is now
    monkeypatch.delenv(name)
    for deterministic, expected in ((False, None), (True, ':4096:8')):
        cfg = Config.fromfile(CONFIGS / 'quickstart' / 'serkd.py')
        cfg.randomness = dict(deterministic=deterministic)
        cfg.runner_type = 'absent'
        with pytest.raises(KeyError):
            build_runner(cfg)
        assert os.environ.get(name) == expected
