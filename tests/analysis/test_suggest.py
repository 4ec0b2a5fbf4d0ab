# Copyright (c) The serkd_mm authors. All rights reserved.
"""What a suggestion says, and pairs that have to be refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmpretrain.models.backbones import ResNet_CIFAR
from mmpretrain.registry import MODELS as PRETRAIN
from torch import Tensor

from serkd_mm.analysis import Suggestion, config_text, read_config, suggest
from serkd_mm.analysis.runtime import checked_loading, missing_runtime
from serkd_mm.engine.launch import leave_teacher_out
from serkd_mm.models.algorithms.teacher import build_teacher

ROOT = Path(__file__).resolve().parents[2]
DINO = 'vit-small-p14_dinov2-pre_3rdparty'
DEIT = 'deit-tiny-distilled_3rdparty_in1k'
RESNET = 'resnet18_8xb32_in1k'
CIFAR = 'resnet18_8xb16_cifar10'
CIFAR_CONFIG = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'
MAE = 'vit-base-p16_mae-1600e-pre_8xb128-coslr-100e_in1k'
STUDENT = 'serkd_mm::quickstart/student.py'
TEACHER = 'serkd_mm::quickstart/teacher.py'


def load(suggestion: Suggestion, path: Path) -> Config:
    path.write_text(config_text(suggestion, path))
    return Config.fromfile(path)


def notes(suggestion: Suggestion) -> str:
    return ' '.join(suggestion.notes)


@pytest.fixture(scope='module')
def to_deit() -> Suggestion:
    return suggest(DINO, DEIT)


@pytest.fixture(scope='module')
def to_dino() -> Suggestion:
    return suggest(RESNET, DINO)


def test_the_config_says_what_people_would_write(tmp_path: Path) -> None:
    cfg = load(suggest(TEACHER, STUDENT), tmp_path / 'pair.py')
    by_hand = Config.fromfile(ROOT / 'configs/quickstart/serkd.py')

    expected = by_hand.model.distiller
    # The leaf's own choice, and what is the default.
    expected.distill_losses.loss_kd.tau = 1.0
    for chain in expected.connectors.values():
        for part in chain if isinstance(chain, list) else [chain]:
            part.pop('num_iters', None)
    found = cfg.model.distiller
    assert found.pop('_scope_') == 'mmrazor'
    assert found == expected
    assert (
        cfg.model.architecture.backbone == by_hand.model.architecture.backbone
    )
    assert cfg.train_dataloader == by_hand.train_dataloader
    assert cfg.optim_wrapper == by_hand.optim_wrapper
    assert cfg.custom_imports['imports'] == ['serkd_mm']


def plain(value: Any) -> Any:
    """Without the scopes that MMEngine gives to configs of a package."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items() if k != '_scope_'}
    return [plain(v) for v in value] if isinstance(value, list) else value


def test_the_students_config_gives_data_and_schedule(tmp_path: Path) -> None:
    cfg = load(suggest(RESNET, CIFAR), tmp_path / 'pair.py')
    student = read_config('mmpretrain::resnet/resnet18_8xb16_cifar10.py')

    for name in ('train_dataloader', 'optim_wrapper', 'param_scheduler'):
        assert plain(cfg[name]) == plain(student[name])
    assert plain(cfg.model.architecture) == plain(student.model)
    assert cfg.model.input_size == 32


def test_a_student_of_another_package_gets_the_hooks_and_the_logs(
    tmp_path: Path,
) -> None:
    cfg = load(suggest(RESNET, CIFAR), tmp_path / 'pair.py')
    own = read_config('serkd_mm::_base_/default_runtime.py')

    for key in ('default_hooks', 'log_processor', 'vis_backends'):
        assert plain(cfg[key]) == plain(own[key])
    # How often is the student's affair.
    text = (tmp_path / 'pair.py').read_text()
    assert "checkpoint=dict(type='AtomicCheckpointHook')," in text
    assert '_scope_' not in text.split('model = ')[0]


def test_a_student_of_another_package_names_broken_images(
    tmp_path: Path,
) -> None:
    cfg = load(suggest(RESNET, RESNET), tmp_path / 'pair.py')
    student = read_config('mmpretrain::resnet/resnet18_8xb32_in1k.py')

    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        expected = plain(student[name].to_dict())
        pipeline = expected['dataset']['pipeline']
        assert pipeline[0] == dict(type='LoadImageFromFile')
        pipeline[0] = dict(type='LoadCheckedImage')
        assert plain(cfg[name].to_dict()) == expected


def test_only_what_loads_as_the_checked_loading_does_is_replaced() -> None:
    def pipeline(**load: Any) -> dict:
        step = dict(type='mmcv.LoadImageFromFile', **load)
        return dict(pipeline=[step, dict(type='PackInputs')])

    inner = pipeline(imdecode_backend='pillow')
    checked = checked_loading(
        Config(
            dict(
                train_dataloader=dict(dataset=dict(times=2, dataset=inner)),
                val_dataloader=dict(dataset=pipeline(ignore_empty=True)),
                test_dataloader=dict(
                    dataset=dict(
                        datasets=[
                            dict(type='RepeatDataset', times=2, dataset=inner),
                            dict(type='Other'),
                        ]
                    )
                ),
            )
        )
    )

    listed = dict(
        pipeline=[
            dict(type='LoadCheckedImage', imdecode_backend='pillow'),
            '*_base_.test_dataloader.dataset.datasets[0].dataset.pipeline[1:]',
        ]
    )
    repeated = dict(type='RepeatDataset', times=2, dataset=listed)
    assert checked == dict(
        test_dataloader=dict(
            dataset=dict(datasets=[repeated, dict(type='Other')])
        ),
        train_dataloader=dict(
            dataset=dict(
                dataset=dict(
                    pipeline=[
                        dict(
                            type='LoadCheckedImage', imdecode_backend='pillow'
                        ),
                        '*_base_.train_dataloader.dataset.dataset.pipeline'
                        '[1:]',
                    ]
                )
            )
        ),
    )


def test_a_list_of_datasets_loads_checked_images(tmp_path: Path) -> None:
    base = read_config('mmpretrain::resnet/resnet18_8xb16_cifar10.py')
    pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
    folder = dict(type='CustomDataset', data_root='a', pipeline=pipeline)
    base.train_dataloader.dataset = dict(
        _delete_=True, type='ConcatDataset', datasets=[folder, folder]
    )
    base.dump(tmp_path / 'student.py')
    suggestion = suggest(RESNET, str(tmp_path / 'student.py'), size=(32, 32))

    cfg = load(suggestion, tmp_path / 'pair.py')

    expected = [dict(type='LoadCheckedImage'), dict(type='PackInputs')]
    for part in cfg.train_dataloader.dataset.datasets:
        assert part.to_dict() == dict(folder, pipeline=expected)


def test_a_student_of_this_package_has_them_already() -> None:
    text = config_text(suggest(TEACHER, STUDENT))
    for key in ('default_hooks', 'log_processor', 'vis_backends'):
        assert key not in text


def test_hooks_and_logs_of_ones_own_stay() -> None:
    cfg = read_config('mmpretrain::resnet/resnet18_8xb16_cifar10.py')
    cfg.default_hooks.checkpoint.type = 'MyCheckpointHook'
    cfg.visualizer.vis_backends = [dict(type='TensorboardVisBackend')]
    missing = missing_runtime(cfg)

    assert 'checkpoint' not in missing['default_hooks']
    assert missing['default_hooks']['non_finite'] == dict(type='NonFiniteHook')
    assert 'visualizer' not in missing


def test_blocks_that_are_missing_come_as_a_whole() -> None:
    missing = missing_runtime(Config(dict(default_hooks=dict(timer=None))))

    # A runner does not take one without the other.
    assert missing['randomness'] == dict(seed=None, deterministic=False)
    assert 'timer' not in missing['default_hooks']
    assert '_scope_' not in str(missing)


@pytest.mark.parametrize(
    ('evaluator', 'least'),
    [
        (None, 50),
        (dict(type='mmpretrain.Accuracy'), 50),
        ([dict(type='SingleLabelMetric'), dict(type='Accuracy')], 50),
        (dict(type='AveragePrecision'), None),
    ],
)
def test_a_teacher_is_held_to_a_top1_only_where_one_is_found(
    evaluator: Any, least: int | None
) -> None:
    hooks = missing_runtime(Config(dict(val_evaluator=evaluator)))
    assert hooks['default_hooks']['teacher_check']['min_top1'] == least


@pytest.mark.parametrize('student', [STUDENT, RESNET])
def test_the_student_can_be_tested_without_the_teacher(
    student: str, tmp_path: Path
) -> None:
    cfg = load(suggest(TEACHER, student), tmp_path / 'pair.py')

    leave_teacher_out(cfg)

    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
    assert type(model.architecture).__name__ == 'ImageClassifier'


def test_other_classes_leave_the_logits_out(tmp_path: Path) -> None:
    suggestion = suggest(RESNET, CIFAR)

    assert 'the student has 10 classes, the teacher 1000' in notes(suggestion)
    distiller = load(suggestion, tmp_path / 'pair.py').model.distiller
    assert 'loss_kd' not in distiller.distill_losses
    assert 'loss_kd' not in distiller.loss_forward_mappings
    assert list(distiller.student_recorders) == ['tokens']


class _Bare(ResNet_CIFAR):
    """A backbone that returns its map and no tuple."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[-1]


def test_a_backbone_that_returns_no_tuple_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its head takes the last image for the last stage."""
    monkeypatch.setitem(PRETRAIN.module_dict, 'TestBare', _Bare)
    student = tmp_path / 'bare.py'
    student.write_text(
        "_base_ = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'\n"
        "model = dict(backbone=dict(type='TestBare'))\n"
    )
    said = notes(suggest(CIFAR, str(student)))
    assert "No loss_kd: the student's LinearClsHead puts out no logits" in said
    assert 'it has to return a tuple' in said


def test_a_teacher_without_head_leaves_the_logits_out(
    to_deit: Suggestion, tmp_path: Path
) -> None:
    assert to_deit.teacher_logits is to_deit.student_logits is None
    assert 'No loss_kd: the teacher has no classification' in notes(to_deit)
    cfg = load(to_deit, tmp_path / 'pair.py')
    assert 'loss_kd' not in cfg.model.distiller.distill_losses
    # Nothing else would train the second head.
    assert cfg.model.architecture.head.type == 'DeiTDistillHead'
    assert cfg.model.architecture.head.label_dist_head is True


def test_grids_that_differ_are_resized(
    to_deit: Suggestion, tmp_path: Path
) -> None:
    cfg = load(to_deit, tmp_path / 'pair.py')

    connectors = cfg.model.distiller.connectors
    resizer = dict(type='TokenResizer', hw=(14, 14))
    assert connectors.teacher_superpixels[1] == resizer
    assert connectors.teacher_tokens[1] == resizer
    assert [part.type for part in connectors.student_superpixels] == [
        'VisualTokens',
        'SuperpixelTokenizer',
    ]
    assert "teacher's 16x16 tokens are resized to 14x14" in notes(to_deit)
    assert 'for 518x518 pixels; here it sees 224x224' in notes(to_deit)


def test_a_student_without_head_data_and_schedule_gets_them(
    to_dino: Suggestion, tmp_path: Path
) -> None:
    cfg = load(to_dino, tmp_path / 'pair.py')

    assert cfg.model.architecture.head == dict(
        type='LinearClsHead', num_classes=1000, in_channels=384
    )
    assert cfg.model.distiller.student_recorders.logits.source == 'head.fc'
    initial = cfg.model.architecture.backbone.init_cfg
    assert initial.checkpoint.endswith(
        'dinov2-pre_3rdparty_20230426-5641ca5a.pth'
    )
    assert cfg.train_dataloader.dataset.type == 'ImageNet'
    assert cfg.train_cfg.max_epochs == 300
    # Its own img_size is another one.
    assert cfg.model.input_size == 224
    assert 'has no data and no schedule' in notes(to_dino)


def test_a_pooled_map_stands_before_an_added_head(tmp_path: Path) -> None:
    student = tmp_path / 'headless.py'
    student.write_text(
        "_base_ = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'\n"
        'model = dict(head=None, neck=None)\n'
    )

    suggestion = suggest(CIFAR, str(student))

    cfg = load(suggestion, tmp_path / 'pair.py')
    assert cfg.model.architecture.neck.type == 'GlobalAveragePooling'
    assert cfg.model.architecture.head.in_channels == 512
    assert cfg.train_dataloader.dataset.type == 'CIFAR10'


def test_the_prediction_of_two_heads_is_their_mean() -> None:
    suggestion = suggest(DEIT, RESNET)

    assert suggestion.teacher_logits == 'head'
    assert suggestion.student_logits == 'head.fc'


def test_a_fine_tuned_student_starts_where_it_started(tmp_path: Path) -> None:
    suggestion = suggest(RESNET, MAE)

    backbone = load(
        suggestion, tmp_path / 'pair.py'
    ).model.architecture.backbone
    assert backbone.init_cfg.checkpoint.startswith('https://')
    assert 'coslr-1600e' in backbone.init_cfg.checkpoint
    assert backbone.arch == 'base'


def test_configs_of_ones_own_are_found_from_where_the_new_one_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    out = tmp_path / 'deep' / 'pair.py'
    out.parent.mkdir()
    names = [f'configs/quickstart/{n}.py' for n in ('teacher', 'student')]

    suggestion = suggest(*names)

    monkeypatch.chdir(tmp_path)
    cfg = load(suggestion, out)
    assert cfg.model.architecture.backbone.arch.embed_dims == 48
    assert build_teacher(cfg.model.teacher).backbone.embed_dims == 96
    assert cfg.model.teacher_ckpt == 'TEACHER.pth'
    assert 'into model.teacher_ckpt' in notes(suggestion)
    assert 'label_dist_head' not in cfg.model.architecture.head


def test_a_mask_in_pre_training_does_not_reach_the_teacher() -> None:
    suggestion = suggest('mae_vit-base-p16_8xb512-amp-coslr-300e_in1k', RESNET)

    assert suggestion.teacher_tokens.source == 'backbone.ln1'
    assert suggestion.teacher_tokens.hw == (14, 14)
    assert suggestion.teacher_logits is None


@pytest.mark.parametrize('fixture', ['to_deit', 'to_dino'])
def test_the_text_is_in_the_style_of_the_configs(
    fixture: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path = tmp_path / 'pair.py'
    path.write_text(config_text(request.getfixturevalue(fixture), path))

    for command in (['format', '--diff'], ['check']):
        done = subprocess.run(
            [
                *(sys.executable, '-m', 'ruff', *command),
                *('--config', str(ROOT / 'pyproject.toml'), str(path)),
            ],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout


# -- pairs that cannot be ---------------------------------------------------


def classifier(path: Path, head: dict, **backbone: Any) -> str:
    base = read_config(CIFAR_CONFIG)
    base.model.head = head
    base.model.backbone.update(backbone)
    base.dump(path)
    return str(path)


def test_labels_of_which_there_are_several_leave_the_logits_out(
    tmp_path: Path,
) -> None:
    head = dict(type='MultiLabelLinearClsHead', num_classes=4, in_channels=512)
    config = classifier(tmp_path / 'labels.py', head)
    for pair, side in (
        ((config, CIFAR), 'teacher'),
        ((CIFAR, config), 'student'),
    ):
        suggestion = suggest(*pair)
        said = f"the {side}'s MultiLabelLinearClsHead predicts labels of which"
        assert said in notes(suggestion)
        assert suggestion.student_logits is None


def test_a_head_of_several_outputs_leaves_the_logits_out() -> None:
    conformer = 'conformer-tiny-p16_3rdparty_in1k'
    for pair, side in (
        ((conformer, RESNET), 'teacher'),
        ((RESNET, conformer), 'student'),
    ):
        suggestion = suggest(*pair)
        said = f"the {side}'s ConformerHead puts out 2 tensors"
        assert said in notes(suggestion)
        # Labels train it as it is.
        assert suggestion.changes == {}


@pytest.mark.parametrize(
    ('student', 'logits'),
    [
        ('levit-128s_3rdparty_in1k', 'head'),
        ('efficientformer-l1_3rdparty_8xb128_in1k', 'head'),
    ],
)
def test_a_head_trains_without_the_classifier_of_a_teacher(
    student: str, logits: str
) -> None:
    suggestion = suggest(RESNET, student)
    assert suggestion.changes['head']['distillation'] is False
    assert 'without its second classifier' in notes(suggestion)
    assert suggestion.student_logits == logits


def test_tokens_among_several_outputs_are_picked(tmp_path: Path) -> None:
    suggestion = suggest('hrnet-w18_3rdparty_8xb32_in1k', RESNET)

    mappings = load(
        suggestion, tmp_path / 'pair.py'
    ).model.distiller.loss_forward_mappings
    for name in ('loss_feature', 'loss_distance', 'loss_angle'):
        assert mappings[name].preds_T.data_idx == 2
        assert 'data_idx' not in mappings[name].preds_S
    assert 'data_idx' not in mappings.loss_kd.preds_T


def test_a_head_that_puts_out_no_logits_is_no_missing_head(
    tmp_path: Path,
) -> None:
    """As a ViT of timm behind MMPretrain's head for ViTs."""
    pytest.importorskip('timm')
    kind = 'VisionTransformerClsHead'
    model = dict(
        type='ImageClassifier',
        backbone=dict(
            type='TIMMBackbone',
            model_name='vit_tiny_patch16_224',
            img_size=32,
            patch_size=8,
        ),
        head=dict(type=kind, num_classes=10, in_channels=192),
    )
    Config(dict(model=model)).dump(tmp_path / 'bad.py')
    said = notes(suggest(str(tmp_path / 'bad.py'), CIFAR))
    assert f"No loss_kd: the teacher's {kind} puts out no logits" in said


def test_tokens_that_are_too_few_to_be_grouped_are_noted(
    tmp_path: Path,
) -> None:
    assert 'Superpixels are single' not in notes(suggest(CIFAR, CIFAR))
    student = tmp_path / 'without_data.py'
    Config(dict(model=read_config(CIFAR_CONFIG).model)).dump(student)
    said = notes(suggest(CIFAR, str(student), size=(3, 3)))
    assert 'Superpixels are single tokens: 3x3 are too few' in said


def test_recorders_of_a_network_of_timm_are_written_by_hand(
    tmp_path: Path,
) -> None:
    path = tmp_path / 'timm.py'
    path.write_text("model = dict(type='TimmClassifier', model_name='r')")
    with pytest.raises(ValueError, match=r'TimmClassifier are .* by hand, su'):
        suggest(RESNET, str(path))


def test_a_network_that_does_not_build_says_where(tmp_path: Path) -> None:
    head = dict(type='LinearClsHead', num_classes=10, in_channels=512)
    config = classifier(tmp_path / 'bad.py', head, num_stages=5)
    with pytest.raises(ValueError, match='does not build') as error:
        suggest(RESNET, config)
    # The host's assertion has no message of its own.
    assert '(AssertionError: assert ' in str(error.value)


def test_a_size_does_not_help_a_network_without_backbone() -> None:
    with pytest.raises(ValueError, match='no module named') as error:
        suggest(RESNET, 'resnet50-arcface_inshop')
    assert '--size' not in str(error.value)


def test_a_student_that_labels_cannot_train_is_refused() -> None:
    with pytest.raises(ValueError, match='a MAE whose head gives no logits'):
        suggest(RESNET, 'mae_vit-base-p16_8xb512-amp-coslr-300e_in1k')


def test_a_teacher_that_takes_other_images_is_refused(tmp_path: Path) -> None:
    student = tmp_path / 'without_data.py'
    Config(dict(model=read_config(CIFAR_CONFIG).model)).dump(student)
    with pytest.raises(ValueError, match='does not run') as error:
        suggest('tinyvit-5m_3rdparty_in1k', str(student), size=(224, 256))
    message = str(error.value)
    assert message.startswith('teacher tinyvit-5m_3rdparty_in1k: ')
    assert '224x256 pixels, in backbone.stages.1.blocks.0' in message
    assert message.endswith('or give --size')


def test_a_teacher_of_other_images_than_the_students_is_refused() -> None:
    with pytest.raises(ValueError, match='does not run') as error:
        suggest('tinyvit-5m_3rdparty_in1k', CIFAR)
    assert 'config of the student whose training pipeline' in str(error.value)


def test_a_size_that_the_students_pipeline_does_not_put_out_is_refused() -> (
    None
):
    message = (
        'the training pipeline of .* puts out 224x224 pixels, not the 64x64 '
        'of --size; leave --size out'
    )
    with pytest.raises(ValueError, match=message):
        suggest(RESNET, DEIT, size=(64, 64))
    assert suggest(RESNET, DEIT, size=(224, 224)).size == (224, 224)


def test_a_network_that_needs_another_package_says_so(tmp_path: Path) -> None:
    config = tmp_path / 'no.py'
    config.write_text("model = dict(type='NoSuchModel', backbone=dict(a=1))")

    with pytest.raises(ValueError, match=r'the teacher .*no\.py does not bu'):
        suggest(str(config), RESNET)
