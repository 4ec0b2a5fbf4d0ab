# Copyright (c) The serkd_mm authors. All rights reserved.
"""The exported student is the trained one, in MMPretrain's own terms."""

from __future__ import annotations

import hashlib
import io
import runpy
import subprocess
import sys
from pathlib import Path

import mmpretrain
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmpretrain import ImageClassificationInferencer
from mmrazor.registry import MODELS

from serkd_mm import compat
from serkd_mm.engine import export
from serkd_mm.engine.export import export_student, find_checkpoint
from serkd_mm.engine.random_state import get_random_state
from serkd_mm.engine.student_config import (
    _own_names,
    image_size,
    student_architecture,
    student_config,
)

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def cfg(request: pytest.FixtureRequest) -> Config:
    """The quick start, with another backbone where a test names one."""
    cfg = Config.fromfile(ROOT / 'configs' / 'quickstart' / 'serkd.py')
    cfg.model.architecture.backbone.update(getattr(request, 'param', {}))
    cfg.model.teacher_ckpt = None
    cfg.model.allow_random_teacher = True
    return cfg


@pytest.fixture
def model(cfg: Config) -> torch.nn.Module:
    model = cfg.copy().model
    model.data_preprocessor = dict(cfg.data_preprocessor)
    return MODELS.build(model).eval()


@pytest.fixture
def checkpoint(cfg: Config, model: torch.nn.Module, tmp_path: Path) -> Path:
    """What MMEngine writes for a run of the quick start."""
    path = tmp_path / 'run' / 'epoch_1.pth'
    path.parent.mkdir()
    meta = dict(
        cfg=cfg.pretty_text, dataset_meta=dict(classes=list('0123456789'))
    )
    torch.save(dict(meta=meta, state_dict=model.state_dict()), path)
    (path.parent / 'last_checkpoint').write_text(str(path))
    return path


def test_mmpretrain_loads_the_student_and_gives_its_logits(
    checkpoint: Path, model: torch.nn.Module, tmp_path: Path
) -> None:
    weights, config, *_ = export_student(
        str(checkpoint), str(tmp_path / 's.pth')
    )

    student = mmpretrain.get_model(str(config), str(weights)).eval()
    pixels = torch.randint(0, 256, (3, 3, 32, 32))
    with torch.no_grad():
        batch = model.data_preprocessor({'inputs': pixels})['inputs']
        expected = model.student(batch)
        batch = student.data_preprocessor({'inputs': pixels})['inputs']
        assert torch.equal(student(batch), expected)
    assert type(student.head).__name__ == 'DeiTClsHead'


@pytest.mark.parametrize(
    'cfg',
    [{'type': 'ConvAttentionDeiT', 'num_conv_layers': 2}],
    ids=['ConvAttentionDeiT'],
    indirect=True,
)
def test_a_student_of_this_package_is_exported_with_its_import(
    checkpoint: Path, tmp_path: Path
) -> None:
    weights, config, *_ = export_student(
        str(checkpoint), str(tmp_path / 's.pth')
    )

    assert 'serkd_mm' in Config.fromfile(config).custom_imports.imports
    state = torch.load(weights)['state_dict']
    assert any(key.endswith('.centers') for key in state)


def test_the_name_carries_the_hash_of_the_file(
    checkpoint: Path, tmp_path: Path
) -> None:
    weights, config, *_ = export_student(
        str(checkpoint), str(tmp_path / 's.pth')
    )

    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert weights.name == f's-{digest[:8]}.pth'
    assert config.name == f's-{digest[:8]}.py'
    assert {p.name for p in tmp_path.iterdir()} == {
        'run',
        weights.name,
        config.name,
    }


@pytest.mark.skipif(
    sys.version_info < (3, 10), reason='asks the locale in another way'
)
def test_names_of_any_script_are_written_under_any_locale(
    cfg: Config,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cfg.test_dataloader.dataset.metainfo = dict(classes=('Größe', '猫'))
    monkeypatch.setattr(
        io, 'text_encoding', lambda given, *_: given or 'ascii'
    )

    _, config, *_ = export_student(
        str(checkpoint), str(tmp_path / 's.pth'), config=cfg
    )

    assert '猫' in config.read_text('utf-8')


def test_a_work_directory_stands_for_its_latest_checkpoint(
    checkpoint: Path, tmp_path: Path
) -> None:
    from_file, *_ = export_student(str(checkpoint), str(tmp_path / 'a.pth'))
    from_folder, *_ = export_student(
        str(checkpoint.parent), str(tmp_path / 'b.pth')
    )
    a, b = (torch.load(p)['state_dict'] for p in (from_file, from_folder))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not any(key.startswith('architecture.') for key in a)


def test_a_work_directory_may_have_been_moved(
    checkpoint: Path, tmp_path: Path
) -> None:
    moved = checkpoint.parent.rename(tmp_path / 'moved')
    assert find_checkpoint(str(moved)) == str(moved / checkpoint.name)
    (moved / checkpoint.name).unlink()
    with pytest.raises(FileNotFoundError, match='no last_checkpoint that exi'):
        find_checkpoint(str(moved))


def test_an_inferencer_predicts_with_the_student(
    checkpoint: Path, tmp_path: Path
) -> None:
    weights, config, *_ = export_student(
        str(checkpoint), str(tmp_path / 's.pth')
    )
    student = ImageClassificationInferencer(
        str(config), pretrained=str(weights)
    )
    image = np.zeros((32, 32, 3), np.uint8)
    assert student(image)[0]['pred_label'] in range(10)


def test_a_config_without_own_classes_does_not_import_the_package(
    cfg: Config,
) -> None:
    assert 'custom_imports' in student_config(cfg)
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        cfg[name] = None
    assert 'serkd_mm' not in student_config(cfg).pretty_text


LEVIT = dict(
    type='mmpretrain.ImageClassifier',
    backbone=dict(type='LeViT', arch='128s', out_indices=2),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LeViTClsHead',
        num_classes=10,
        in_channels=384,
        distillation=False,
    ),
)
CONFORMER = dict(
    type='mmpretrain.ImageClassifier',
    backbone=dict(
        type='Conformer',
        arch=dict(embed_dims=24, channel_ratio=1, num_heads=3, depths=3),
    ),
    head=dict(type='ConformerHead', num_classes=10, in_channels=[256, 24]),
)


@pytest.mark.parametrize(
    ('architecture', 'parameters'),
    [
        # Gathers these when eval mode begins, not when they are loaded.
        (LEVIT, 'attention_biases'),
        # Puts out two sets of logits, with a head each.
        (CONFORMER, 'trans_cls_head.weight'),
    ],
    ids=['LeViT', 'Conformer'],
)
def test_the_exported_student_is_compared_as_it_was_trained(
    cfg: Config, tmp_path: Path, architecture: dict, parameters: str
) -> None:
    cfg.model.architecture = architecture
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        student = MODELS.build(student_architecture(cfg))
    for name, parameter in student.named_parameters():
        if name.endswith(parameters):
            torch.nn.init.normal_(parameter, std=3)
    weights = student.state_dict(prefix='architecture.')
    checkpoint = tmp_path / 'epoch_1.pth'
    meta = dict(cfg=cfg.pretty_text)
    torch.save(dict(meta=meta, state_dict=weights), checkpoint)

    exported = export_student(str(checkpoint), str(tmp_path / 's.pth'))

    assert exported[0].is_file()


@pytest.mark.skipif(
    not compat.CURED_NETWORKS, reason='this MMPretrain needs no cure'
)
def test_a_network_that_mmpretrain_alone_computes_otherwise_imports_the_cure(
    cfg: Config,
) -> None:
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        cfg[name] = None
    cfg.model.architecture.backbone.type = 'mmpretrain.DeiT3'
    assert student_config(cfg).custom_imports.imports == ['serkd_mm']


def test_what_a_job_on_cpus_needs_stays_behind(cfg: Config) -> None:
    before = student_config(cfg).pretty_text
    wrapper = dict(
        type='MMDistributedDataParallel',
        device_ids=None,
        broadcast_buffers=False,
        find_unused_parameters=False,
    )
    cfg.model_wrapper_cfg = wrapper
    cfg.env_cfg.dist_cfg = dict(backend='gloo')
    after = student_config(cfg)
    assert 'model_wrapper_cfg' not in after
    assert 'gloo' not in after.pretty_text
    assert 'gloo' not in before


def test_types_with_their_scope_are_of_this_package_too(cfg: Config) -> None:
    head, wrapper = cfg.model.architecture.head, cfg.optim_wrapper
    head.type = f'mmpretrain.{head.type}'
    wrapper.constructor = 'mmengine.MergedOptimWrapperConstructor'
    wrapper.type = 'mmengine.Bfloat16OptimWrapper'
    wrapper.fused_attention = False
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        cfg[name] = None
    student = student_config(cfg)
    assert student.model.head.type == 'DeiTClsHead'
    assert 'constructor' not in student.optim_wrapper
    assert 'type' not in student.optim_wrapper
    assert 'fused_attention' not in student.optim_wrapper
    assert 'serkd_mm' not in student.pretty_text


def test_a_student_that_computes_something_else_is_not_written(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    get_model = mmpretrain.get_model

    def broken(*args: str) -> torch.nn.Module:
        student = get_model(*args)
        student.head.layers.head.bias.data += 1
        return student

    monkeypatch.setattr(mmpretrain, 'get_model', broken)
    with pytest.raises(RuntimeError, match='nothing was written'):
        export_student(str(checkpoint), str(tmp_path / 's.pth'))
    assert [p.name for p in tmp_path.iterdir()] == ['run']


@pytest.mark.parametrize(
    ('state', 'message'),
    [
        (dict(state_dict={'backbone.x': torch.ones(1)}), 'holds no student'),
        (dict(state_dict={'architecture.x': torch.ones(1)}), 'meta.cfg'),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(
    state: dict, message: str, tmp_path: Path
) -> None:
    path = tmp_path / 'other.pth'
    torch.save(state, path)
    with pytest.raises(ValueError, match=message):
        export_student(str(path), str(tmp_path / 's.pth'))


def test_missing_files_and_endings_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r'nowhere\.pth'):
        export_student('nowhere.pth', str(tmp_path / 's.pth'))
    with pytest.raises(FileNotFoundError, match='no last_checkpoint'):
        export_student(str(tmp_path), str(tmp_path / 's.pth'))
    with pytest.raises(ValueError, match=r"\.pth file, got '.*s\.pt'"):
        export_student('nowhere.pth', str(tmp_path / 's.pt'))


def test_the_preprocessing_of_the_algorithm_is_exported(
    cfg: Config, tmp_path: Path
) -> None:
    cfg.model.data_preprocessor = cfg.pop('data_preprocessor')
    model = MODELS.build(cfg.copy().model)
    path = tmp_path / 'epoch_1.pth'
    meta = dict(cfg=cfg.pretty_text)
    torch.save(dict(meta=meta, state_dict=model.state_dict()), path)

    weights, config, *_ = export_student(str(path), str(tmp_path / 's.pth'))

    student = mmpretrain.get_model(str(config), str(weights))
    assert torch.equal(
        student.data_preprocessor.mean, model.data_preprocessor.mean
    )


def test_the_exported_config_trains_without_the_package(cfg: Config) -> None:
    student = student_config(cfg)
    assert 'constructor' not in student.optim_wrapper
    assert student.optim_wrapper.optimizer == cfg.optim_wrapper.optimizer


def test_names_of_the_config_are_those_of_the_student(cfg: Config) -> None:
    """A pattern matches anywhere in a name, so an old one matches nothing."""
    cfg.optim_wrapper.paramwise_cfg = dict(
        norm_decay_mult=0.0,
        custom_keys={
            'architecture.backbone.patch_embed': dict(lr_mult=0.0),
            'cls_token': dict(decay_mult=0.0),
            'distiller': dict(lr_mult=2.0),
        },
    )
    cfg.activation_checkpointing = ['architecture.backbone.layers.0']

    student = student_config(cfg)

    assert student.optim_wrapper.paramwise_cfg == dict(
        norm_decay_mult=0.0,
        custom_keys={
            'backbone.patch_embed': dict(lr_mult=0.0),
            'cls_token': dict(decay_mult=0.0),
        },
    )
    assert student.activation_checkpointing == ['backbone.layers.0']
    cfg.activation_checkpointing = 'architecture.backbone.layers.0'
    assert student_config(cfg).activation_checkpointing == [
        'backbone.layers.0'
    ]


def test_images_are_loaded_by_mmpretrain(cfg: Config) -> None:
    images = Config.fromfile(
        ROOT / 'configs' / '_base_' / 'datasets' / 'imagenet_bs128_224.py'
    )
    cfg.merge_from_dict(images.to_dict())
    cfg.train_dataloader.dataset = dict(
        type='SkipBrokenImages', dataset=images.train_dataloader.dataset
    )

    student = student_config(cfg)

    for name in ('train_dataloader', 'test_dataloader'):
        dataset = student[name].dataset
        assert dataset.type == 'ImageNet'
        assert dataset.pipeline[0] == dict(type='LoadImageFromFile')
        assert dataset.pipeline[1] == images[name].dataset.pipeline[1]
    assert 'LoadCheckedImage' not in student.pretty_text


def test_what_needs_a_distillation_is_not_exported(cfg: Config) -> None:
    ema = dict(type='EMAHook')
    stop = dict(type='mmrazor.StopDistillHook', stop_epoch=1)
    cfg.custom_hooks = [stop, ema]
    assert student_config(cfg).custom_hooks == [ema]
    cfg.custom_hooks = [stop]
    assert 'custom_hooks' not in student_config(cfg)


def test_nor_is_it_before_mmrazor_has_registered_its_hooks(
    cfg: Config, tmp_path: Path
) -> None:
    """As in a tool that trains nothing."""
    cfg.custom_hooks = [dict(type='mmrazor.StopDistillHook', stop_epoch=1)]
    cfg.dump(tmp_path / 'config.py')
    script = (
        'import sys\n'
        'from mmengine.config import Config\n'
        'from serkd_mm.engine.student_config import student_config\n'
        "assert 'mmrazor.engine' not in sys.modules\n"
        f'cfg = Config.fromfile({str(tmp_path / "config.py")!r})\n'
        "assert 'custom_hooks' not in student_config(cfg)\n"
    )
    subprocess.run([sys.executable, '-c', script], check=True, cwd=ROOT)


def test_hooks_of_the_package_become_those_that_they_extend(
    cfg: Config,
) -> None:
    cfg.custom_hooks = [dict(type='EMAHook'), dict(type='NonFiniteHook')]
    checkpoint = dict(cfg.default_hooks.checkpoint)

    student = student_config(cfg)

    hooks = student.default_hooks
    assert student.custom_hooks == [dict(type='EMAHook')]
    assert hooks.checkpoint == dict(checkpoint, type='CheckpointHook')
    assert 'non_finite' not in hooks
    assert hooks.logger == cfg.default_hooks.logger


def test_a_checkpoint_of_another_student_is_one_line(
    checkpoint: Path, cfg: Config, tmp_path: Path
) -> None:
    config = tmp_path / 'other.py'
    cfg.model.architecture.backbone.arch.embed_dims = 96
    cfg.dump(config)
    with pytest.raises(ValueError, match='does not belong to its') as error:
        export_student(
            str(checkpoint), str(tmp_path / 's.pth'), config=str(config)
        )
    assert 'backbone.cls_token' in str(error.value)
    assert '\n' not in str(error.value)

    # Which MMPretrain asserts.
    saved = torch.load(checkpoint)
    name = 'architecture.backbone.pos_embed'
    saved['state_dict'][name] = saved['state_dict'][name][:, :-5]
    torch.save(saved, tmp_path / 'cut.pth')
    with pytest.raises(ValueError, match='belong to its .*pos_embed'):
        export_student(str(tmp_path / 'cut.pth'), str(tmp_path / 's.pth'))

    config.write_text("model = dict(type='ImageClassifier')")
    with pytest.raises(ValueError, match=r'other\.py is not that of a disti'):
        export_student(
            str(checkpoint), str(tmp_path / 's.pth'), config=str(config)
        )
    assert not list(tmp_path.glob('s-*'))


def evil_config(cfg: Config, marker: Path, kind: str) -> str:
    command = ['touch', str(marker)]
    if kind == 'code':
        return f'{cfg.pretty_text}\nimport os\nos.system("touch {marker}")\n'
    if kind == 'type':
        neck = dict(type='subprocess.check_call', args=command)
        cfg.model.architecture.neck = neck
    if kind == 'import':
        cfg.custom_imports.imports.append('evil_module')
    return cfg.pretty_text


@pytest.mark.parametrize('kind', ['code', 'type', 'import'])
def test_the_config_in_a_checkpoint_runs_nothing(
    kind: str,
    checkpoint: Path,
    cfg: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    marker = tmp_path / 'ran'
    (tmp_path / 'evil_module.py').write_text(f'open({str(marker)!r}, "w")')
    monkeypatch.syspath_prepend(tmp_path)
    content = torch.load(checkpoint)
    content['meta']['cfg'] = evil_config(cfg, marker, kind)
    torch.save(content, checkpoint)

    with pytest.raises(ValueError, match='name its file with --config'):
        export_student(str(checkpoint), str(tmp_path / 's.pth'))

    assert not marker.exists()
    assert not list(tmp_path.glob('s-*'))


def test_the_same_student_has_the_same_name(
    checkpoint: Path, cfg: Config, tmp_path: Path
) -> None:
    names = []
    for folder in ('a', 'b'):
        student = export_student(
            str(checkpoint), str(tmp_path / folder / 's.pth'), config=cfg
        )
        names.append(student.checkpoint.name)
    assert names[0] == names[1]


def test_the_tool_prints_what_it_wrote(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    out = str(tmp_path / 's.pth')
    arguments = ['export_student.py', str(checkpoint), out, '--torchscript']
    monkeypatch.setattr(sys, 'argv', arguments)

    runpy.run_path(str(ROOT / 'tools' / 'export_student.py'), {}, '__main__')

    printed = capsys.readouterr().out.splitlines()[-4:]
    endings = [Path(line).suffix for line in printed[:3]]
    assert endings == ['.pth', '.py', '.pt']
    assert all(Path(line).is_file() for line in printed[:3])
    assert printed[3] == 'Logits equal those of the trained student.'


def test_a_student_that_is_referred_to_is_written_out(cfg: Config) -> None:
    """MMPretrain knows no reference; the run's preprocessing goes first."""
    path = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'
    cfg.model.architecture = Config(dict(cfg_path=path))._cfg_dict

    exported = student_config(cfg).model

    assert exported.type == 'ImageClassifier'
    assert exported.backbone.type == 'ResNet_CIFAR'
    assert exported.data_preprocessor == cfg.data_preprocessor
    assert 'cfg_path' not in exported
    assert '_scope_' not in exported


def test_programs_need_the_size_of_the_images(
    cfg: Config, model: torch.nn.Module
) -> None:
    student = model.student
    assert image_size(student, cfg) == (32, 32)
    del student.backbone.img_size
    assert image_size(student, cfg) is None
    assert image_size(torch.nn.Identity(), cfg) is None
    images = Config.fromfile(
        ROOT / 'configs' / '_base_' / 'datasets' / 'imagenet_bs128_224.py'
    )
    images.model = {}
    assert image_size(student, images) == (224, 224)
    (*_, pack) = images.test_dataloader.dataset.pipeline
    resize = dict(type='Resize', scale=(96, 64), keep_ratio=False)
    images.test_dataloader.dataset.pipeline = [resize, pack]
    # Width and height.
    assert image_size(student, images) == (64, 96)
    images.test_dataloader.dataset = dict(
        type='RepeatDataset', dataset=images.test_dataloader.dataset
    )
    assert image_size(student, images) == (64, 96)
    images.test_dataloader.dataset.dataset.pipeline = [pack]
    assert image_size(student, images) is None
    images.model.input_size = 48
    assert image_size(student, images) == (48, 48)
    images.model.input_size = (48, 64)
    assert image_size(student, images) == (48, 64)
    images.model.input_size = 0
    assert image_size(student, images) is None
    with pytest.raises(ValueError, match='name it with --size'):
        export._known(None)


def test_the_pipeline_of_a_checkpoint_calls_nothing_unknown(
    model: torch.nn.Module, tmp_path: Path
) -> None:
    made = tmp_path / 'made'
    call = dict(type='os.mkdir', path=str(made))
    loader = dict(dataset=dict(pipeline=[call, dict(type='PackInputs')]))
    del model.student.backbone.img_size

    run = Config(dict(model={}, test_dataloader=loader))

    assert image_size(model.student, run) is None
    assert not made.exists()


def test_a_program_takes_images_of_the_size_that_is_named(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []

    def noted(_: torch.nn.Module, path: Path, size: tuple) -> str:
        sizes.append(size)
        path.touch()
        return ''

    monkeypatch.setattr(export, 'write_torchscript', noted)
    for size in (64, None):
        export_student(
            str(checkpoint),
            str(tmp_path / f'{size}.pth'),
            torchscript=True,
            size=size,
        )

    assert sizes == [(64, 64), (32, 32)]


def test_the_random_generators_are_as_they_were_before_an_export(
    checkpoint: Path, tmp_path: Path
) -> None:
    before = get_random_state()

    export_student(str(checkpoint), str(tmp_path / 's.pth'))

    after = get_random_state()
    assert torch.equal(after['torch'], before['torch'])
    assert after['python'] == before['python']


@pytest.mark.parametrize('size', [0, -1])
def test_a_size_is_positive(
    size: int, checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f'at least 1 pixel, got {size}'):
        export_student(str(checkpoint), str(tmp_path / 's.pth'), size=size)


def test_mmengine_trains_and_tests_by_the_exported_config(
    cfg: Config, checkpoint: Path, tmp_path: Path
) -> None:
    weights, config, *_ = export_student(
        str(checkpoint), str(tmp_path / 's.pth'), config=cfg
    )
    student = Config.fromfile(config)
    student.work_dir = str(tmp_path / 'work')
    student.load_from = str(weights)
    student.train_cfg = dict(by_epoch=False, max_iters=1)
    student.param_scheduler = None
    student.auto_scale_lr = None
    student.val_cfg = student.val_dataloader = student.val_evaluator = None
    student.test_dataloader.dataset.indices = 20
    runner = Runner.from_cfg(student)

    assert set(runner.test()) == {'accuracy/top1'}
    runner.train()

    assert runner.iter == 1


def test_what_knows_no_module_is_of_another_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As a functools.partial of Python 3.9.
    registered = dict(theirs=[object()], ours=[export.export_student])
    monkeypatch.setattr(
        'serkd_mm.engine.student_config.registered_classes', lambda: registered
    )
    assert _own_names() == {'ours'}
