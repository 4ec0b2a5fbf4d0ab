# Copyright (c) The serkd_mm authors. All rights reserved.
"""A pair that fits is measured; of one that does not all is said at once."""

from __future__ import annotations

import io
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmpretrain import get_model
from rich.console import Console
from torch import Tensor

from serkd_mm.analysis import (
    CheckOptions,
    PairReport,
    check_pair,
    pair_tables,
    read_config,
    save_pair,
    show_pair,
)
from serkd_mm.analysis.cost import count_flops
from serkd_mm.models import TokenDistanceLoss, TokenFeatureLoss
from serkd_mm.models.algorithms import class_checks
from serkd_mm.models.algorithms.teacher import build_teacher

from ..models.builders import (
    algorithm_config,
    cnn_config,
    distiller_config,
    recorder,
)

DISTILLER = 'model.distiller'
MAPPINGS = f'{DISTILLER}.loss_forward_mappings'
OPTIONS = CheckOptions(batch_size=4, steps=1, random_teacher=True)


def config(**options: Any) -> Config:
    """The quick start, with other settings."""
    cfg = read_config('serkd_mm::quickstart/serkd.py')
    cfg.merge_from_dict(options)
    return cfg


def check(options: dict | None = None, **settings: Any) -> PairReport:
    cfg = config(**(options or {}))
    return check_pair(cfg, 'pair', replace(OPTIONS, **settings))


def text(report: PairReport, width: int = 80) -> str:
    stream = io.StringIO()
    show_pair(report, Console(file=stream, width=width))
    return stream.getvalue()


@pytest.fixture(scope='module')
def fitting() -> PairReport:
    return check()


# -- a pair that fits -------------------------------------------------------


def test_what_is_recorded_and_connected_is_listed(fitting: PairReport) -> None:
    assert fitting.fits
    assert (fitting.size, fitting.batch_size) == ((32, 32), 4)
    assert [(r.side, r.recorder, r.shape) for r in fitting.records] == [
        ('student', 'tokens', (4, 66, 48)),
        ('student', 'logits', (4, 10)),
        ('teacher', 'tokens', (4, 65, 96)),
        ('teacher', 'logits', (4, 10)),
    ]
    by_name = {t.connector: t for t in fitting.tokens}
    assert len(by_name) == len(fitting.tokens) == 4
    superpixels = by_name['student_superpixels']
    assert (superpixels.prefix, superpixels.grid) == (2, (8, 8))
    assert (superpixels.superpixels, superpixels.shape) == (
        (4, 4),
        (4, 16, 48),
    )
    assert by_name['teacher_tokens'].prefix == 1
    assert by_name['teacher_tokens'].superpixels is None


def test_every_loss_has_weight_value_and_gradient(fitting: PairReport) -> None:
    losses = {term.name: term for term in fitting.losses}

    assert {name: term.weight for name, term in losses.items()} == {
        'student.loss': 1.0,
        'distill.loss_kd': 1.0,
        'distill.loss_feature': 1.0,
        'distill.loss_distance': 0.5,
        'distill.loss_angle': 1.0,
    }
    assert all(term.value > 0 for term in losses.values())
    for name in ('feature', 'distance', 'angle'):
        assert losses[f'distill.loss_{name}'].gradients['tokens'] > 0
    # The heads start at zero.
    assert losses['student.loss'].gradients == {'tokens': 0.0}
    note = 'No gradient from student.loss, distill.loss_kd at tokens'
    assert fitting.notes[0].startswith(note)


def test_values_and_gradients_have_the_losses_weight(
    fitting: PairReport,
) -> None:
    key = f'{DISTILLER}.distill_losses.loss_distance.loss_weight'
    doubled = check({key: 1.0})

    for before, after in zip(fitting.losses, doubled.losses):
        factor = 2 if before.name == 'distill.loss_distance' else 1
        assert after.value == pytest.approx(factor * before.value)
        for name, gradient in before.gradients.items():
            expected = pytest.approx(factor * gradient)
            assert after.gradients[name] == expected


def test_a_gradient_is_that_of_the_tokens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of mean (W x + b - t)^2, with respect to x."""
    forward = TokenFeatureLoss.forward
    calls = []

    def watch(loss: Any, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        # Copies: the timed steps train the projection.
        weight = loss.projection.weight.detach().clone()
        error = loss.projection(preds_S).detach() - preds_T
        calls.append((weight, error))
        return forward(loss, preds_S, preds_T)

    monkeypatch.setattr(TokenFeatureLoss, 'forward', watch)
    report = check()

    weight, error = calls[0]
    term = {t.name: t for t in report.losses}['distill.loss_feature']
    assert term.value == pytest.approx(float(error.square().mean()))
    gradient = 2 * error @ weight / error.numel()
    assert term.gradients['tokens'] == pytest.approx(float(gradient.norm()))


def test_networks_have_their_size_and_cost(fitting: PairReport) -> None:
    student, teacher = fitting.networks

    assert (student.parameters, teacher.parameters) == (63_572, 311_338)
    assert student.weights == 'as training starts'
    assert teacher.weights == 'RANDOM (as asked for)'
    assert student.flops is not None
    assert teacher.flops is not None
    assert student.flops < teacher.flops


@pytest.mark.parametrize(
    ('name', 'flops'),
    # Those of the model zoo's table; the first without the biases.
    [('deit-tiny_4xb256_in1k', 1.258e9), ('resnet18_8xb32_in1k', 1.82e9)],
)
def test_flops_are_those_of_the_model_zoo(name: str, flops: float) -> None:
    network = get_model(name)

    assert count_flops(network, (224, 224)) == pytest.approx(flops, rel=1e-3)


def test_a_step_is_timed_and_an_epoch_estimated(fitting: PairReport) -> None:
    step = fitting.step

    assert step is not None
    assert step.batch_size == 4
    assert step.images == 1000
    assert step.epochs == 40
    assert step.milliseconds > 0
    assert step.memory_mib > 1
    assert step.epoch_seconds == pytest.approx(step.milliseconds / 4)


def test_the_batch_is_the_configs_within_a_cpus_reach() -> None:
    assert check(batch_size=None).batch_size == 25
    large = check_pair(
        read_config('serkd_mm::quickstart/serkd.py'),
        'pair',
        CheckOptions(steps=1, size=(64, 64), random_teacher=True),
    )
    assert large.size == (64, 64)
    assert large.batch_size == 25


@pytest.mark.parametrize(
    'place',
    [
        'mmpretrain.models.ImageClassifier.loss',
        'serkd_mm.analysis.inspector.measure_losses',
        'serkd_mm.analysis.pair.time_steps',
    ],
)
def test_a_batch_that_memory_does_not_hold_is_the_problem(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise torch.cuda.OutOfMemoryError('CUDA out of memory.')

    monkeypatch.setattr(place, fail)
    (problem,) = check().problems
    assert problem.key == 'train_dataloader.batch_size'
    assert problem.message == 'OutOfMemoryError: CUDA out of memory.'


@pytest.mark.parametrize('scope', ['', 'mmengine.'])
def test_mixed_precision_is_left_to_gpus(scope: str) -> None:
    wrapper = f'{scope}AmpOptimWrapper'
    report = check({'optim_wrapper.type': wrapper, 'optim_wrapper.dtype': 'x'})

    assert report.fits
    assert report.step is not None


def test_a_checkpoint_that_is_there_is_loaded(tmp_path: Path) -> None:
    path = str(tmp_path / 'teacher.pth')
    torch.save(build_teacher(config().model.teacher).state_dict(), path)

    report = check({'model.teacher_ckpt': path}, random_teacher=False)

    assert report.fits
    assert report.networks[1].weights == path
    assert 'RANDOM' not in text(report)


def test_a_stage_of_every_network_may_be_compared() -> None:
    cfg = read_config(
        'serkd_mm::cnn/serkd-avg_resnet101_resnet18_8xb32_in1k.py'
    )
    cfg.model.teacher.cfg_path = 'mmpretrain::resnet/resnet18_8xb32_in1k.py'

    report = check_pair(
        cfg, 'pair', CheckOptions(batch_size=2, steps=1, size=(64, 64))
    )

    assert report.fits
    stages = {'stage1', 'stage2', 'stage3'}
    assert {t.connector for t in report.tokens} == stages
    gradients = {t.name: t.gradients for t in report.losses}
    assert set(gradients['student.loss']) == stages
    reached = {n for n, g in gradients['distill.loss_angle2'].items() if g}
    assert reached == {'stage1', 'stage2'}


def test_records_before_an_activation_stay_what_they_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither network's ReLU writes into the batch norm's output."""
    tokens = dict(recorder='tokens', connector='tokens', connector_idx=0)
    model = algorithm_config(
        architecture=cnn_config(),
        teacher=cnn_config(),
        distiller=distiller_config(
            losses=('loss_distance',),
            student_recorders=dict(tokens=recorder('backbone.bn1')),
            teacher_recorders=dict(tokens=recorder('backbone.bn1')),
            connectors=dict(tokens=dict(type='FeatureMapTokenizer', stride=4)),
            loss_forward_mappings=dict(
                loss_distance=dict(
                    preds_S=dict(tokens, from_student=True),
                    preds_T=dict(tokens, from_student=False),
                )
            ),
        ),
    )
    optimizer = dict(optimizer=dict(type='SGD', lr=0.1))
    cfg = Config(dict(model=model, optim_wrapper=optimizer))

    forward = TokenDistanceLoss.forward
    lowest = []

    def watch(loss: Any, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        lowest.extend(float(side.min()) for side in (preds_S, preds_T))
        return forward(loss, preds_S, preds_T)

    monkeypatch.setattr(TokenDistanceLoss, 'forward', watch)
    report = check_pair(cfg, 'pair', replace(OPTIONS, size=(32, 32)))

    assert report.fits
    assert max(lowest[:2]) < 0


# -- pairs that do not fit --------------------------------------------------


def keys(report: PairReport) -> list[str]:
    return [problem.key for problem in report.problems]


def test_all_problems_are_found_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where no quick start has left its teacher.
    monkeypatch.chdir(tmp_path)
    report = check(
        {
            f'{DISTILLER}.student_recorders.logits.source': 'head.layer.head',
            f'{DISTILLER}.connectors.teacher_superpixels.0'
            '.num_prefix_tokens': 0,
            f'{DISTILLER}.distill_losses.loss_feature.student_channels': 47,
        },
        random_teacher=False,
    )

    assert keys(report) == [
        'model.teacher_ckpt',
        f'{DISTILLER}.student_recorders.logits.source',
        f'{DISTILLER}.distill_losses.loss_feature',
        f'{DISTILLER}.connectors.teacher_superpixels[0]',
    ]
    said = text(report)
    assert '4 PROBLEMS' in said
    for advice in (
        'epoch_40.pth',
        'nearest names: head.layers.head',
        'student_channels=48',
        'num_prefix_tokens=1',
    ):
        assert advice in ' '.join(said.split())
    # What does fit is there nevertheless.
    assert len(report.records) == 3
    assert [t.name for t in report.losses] == ['student.loss']
    assert report.step is None


def test_other_numbers_of_superpixels_point_to_the_connectors() -> None:
    grid = f'{DISTILLER}.connectors.teacher_superpixels.1.grid_size'

    report = check({grid: (4, 4)})

    key = f'{DISTILLER}.connectors.student_superpixels or .teacher_superpixels'
    assert set(keys(report)) == {key}
    assert '(4, 16, 48)' in report.problems[0].message
    assert '(4, 4, 96)' in report.problems[0].message


def test_the_nearest_argument_is_named_as_in_training() -> None:
    report = check({'model.architecture.hed.num_classes': 5})

    (problem,) = report.problems
    assert problem.key == 'model.architecture'
    assert "'hed'" in problem.message
    assert problem.message.endswith("id you mean 'head'?")


def test_other_classes_point_to_the_loss() -> None:
    head = 'model.architecture.head.num_classes'

    report = check({head: 7, 'data_preprocessor.num_classes': 7})

    assert keys(report) == [f'{DISTILLER}.distill_losses.loss_kd']
    assert '7 classes and the teacher 10' in report.problems[0].message


def test_classes_of_the_student_alone_are_named_as_in_training() -> None:
    report = check({'model.architecture.head.num_classes': 7})

    said = {problem.key: problem.message for problem in report.problems}
    loss = f'{DISTILLER}.distill_losses.loss_kd'
    assert said.keys() == {'data_preprocessor', loss}
    assert 'num_classes=7' in said['data_preprocessor']
    assert '7 classes and the teacher 10' in said[loss]


def test_several_labels_per_image_are_named_beside_another_mistake(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(class_checks, '_has_many_labels', lambda network: True)
    report = check(
        {f'{DISTILLER}.distill_losses.loss_feature.student_channels': 7}
    )

    said = {problem.key: problem.message for problem in report.problems}
    message = said[f'{DISTILLER}.distill_losses.loss_kd']
    assert 'labels of which an image can have several' in message


LABELS = {
    f'{DISTILLER}.student_recorders.labels': dict(
        type='ModuleInputs', source='head.loss_module'
    ),
    f'{MAPPINGS}.loss_kd.gt_labels': dict(
        recorder='labels', from_student=True, data_idx=1
    ),
    f'{DISTILLER}.distill_losses.loss_kd.type': 'DKDLoss',
}


def test_a_loss_of_hard_labels_says_what_training_says() -> None:
    (mixed,) = check(LABELS).problems
    assert 'augments (Mixup, CutMix)' in mixed.message

    hard = {**LABELS, 'model.architecture.train_cfg': None}
    assert check(hard).fits
    classes = ('model.architecture.head', 'data_preprocessor')
    others = {f'{key}.num_classes': 7 for key in classes}
    (problem,) = check({**hard, **others}).problems
    assert problem.key == mixed.key
    assert '7 classes and the teacher 10' in problem.message


def test_a_refinement_of_another_width_points_to_the_connector() -> None:
    tokenizer = f'{DISTILLER}.connectors.student_superpixels.1'

    (problem,) = check({f'{tokenizer}.refine_channels': 7}).problems

    assert problem.key == f'{DISTILLER}.connectors.student_superpixels[1]'
    assert 'set refine_channels=48' in problem.message


def test_a_network_that_does_not_run_names_its_module() -> None:
    report = check({'model.architecture.head.in_channels': 47})

    assert keys(report) == ['model.architecture.head']
    assert 'in head.layers.head:' in report.problems[0].message
    assert [r.side for r in report.records].count('teacher') == 2


@pytest.mark.parametrize(
    ('key', 'value', 'place', 'message'),
    [
        ('model.architecture.type', 'No', 'model.architecture', 'No'),
        ('model.teacher.cfg_path', 'no.py', 'model.teacher', "'no.py'"),
        (
            f'{DISTILLER}.distill_losses.loss_angle.type',
            'No',
            DISTILLER,
            'No',
        ),
        (
            f'{DISTILLER}.distill_losses.loss_kd.tau',
            float('nan'),
            f'{DISTILLER}.distill_losses.loss_kd',
            'is nan on random images',
        ),
        ('optim_wrapper.optimizer.type', 'No', 'config', "'No' is not reg"),
        ('param_schedulers', [], 'config', 'param_scheduler'),
        ('train_cfg.max_epochs', 'many', 'config', 'max_epochs'),
        ('model.no_such_option', 1, 'model', 'no_such_option'),
    ],
)
def test_a_problem_has_the_key_to_change(
    key: str, value: Any, place: str, message: str
) -> None:
    report = check({key: value})

    assert keys(report) == [place]
    assert message in report.problems[0].message
    assert report.step is None


def test_a_checkpoint_of_another_network_is_a_problem(tmp_path: Path) -> None:
    path = str(tmp_path / 'other.pth')
    torch.save({'weight': torch.zeros(2)}, path)

    report = check({'model.teacher_ckpt': path}, random_teacher=False)

    assert keys(report) == ['model.teacher_ckpt']
    assert 'does not fit the teacher' in report.problems[0].message
    assert report.networks[1].weights == 'RANDOM (does not fit)'
    assert report.step is not None


@pytest.mark.parametrize(
    ('weights', 'fits'),
    [('', False), ('nowhere.pth', False), ('https://example.org/w.pth', True)],
)
def test_weights_to_start_from_are_not_read(weights: str, fits: bool) -> None:
    initial = dict(type='Pretrained', checkpoint=weights)

    report = check({'model.architecture.backbone.init_cfg': initial})

    key = 'model.architecture.backbone.init_cfg.checkpoint'
    assert keys(report) == ([] if fits else [key])
    assert any('not read' in note for note in report.notes)


def test_batches_that_training_refuses_are_a_problem() -> None:
    cfg = read_config('serkd_mm::digits/rkd.py')
    cfg.train_dataloader.batch_size = 2
    report = check_pair(cfg, 'pair', replace(OPTIONS, batch_size=2))
    assert keys(report) == ['train_dataloader.batch_size']
    assert 'compares the images of a batch' in report.problems[0].message

    cfg = Config(config().to_dict())
    cfg.model = algorithm_config(
        architecture=cnn_config(),
        distiller=dict(
            type='ConfigurableDistiller',
            student_recorders=dict(logits=recorder('head.fc')),
            teacher_recorders=dict(logits=recorder('head.layers.head')),
            distill_losses=dict(loss_kd=dict(type='KLDivergence')),
            loss_forward_mappings=dict(
                loss_kd=dict(
                    preds_S=dict(recorder='logits', from_student=True),
                    preds_T=dict(recorder='logits', from_student=False),
                )
            ),
        ),
    )
    cfg.train_dataloader.batch_size = 1
    report = check_pair(cfg, 'pair', OPTIONS)
    assert keys(report) == ['train_dataloader.batch_size']
    assert 'has batch norm' in report.problems[0].message
    cfg.sync_bn = 'torch'
    assert keys(check_pair(cfg, 'pair', OPTIONS)) == []

    cfg = Config(config().to_dict())
    cfg.train_dataloader.update(batch_size=1001, drop_last=True)
    report = check_pair(cfg, 'pair', OPTIONS)
    assert keys(report) == ['train_dataloader.batch_size']
    assert '1000 images per process' in report.problems[0].message


@pytest.mark.parametrize(
    'dataset',
    [
        dict(type='CustomDataset', ann_file='missing.txt'),
        dict(type='CustomDataset'),
        dict(type='NoDataset'),
    ],
)
def test_a_training_set_that_cannot_be_counted_is_a_note(
    dataset: dict, tmp_path: Path
) -> None:
    cfg = config()
    cfg.train_dataloader.dataset = dict(
        data_root=str(tmp_path), pipeline=[], **dataset
    )
    cfg.train_cfg = None

    report = check_pair(cfg, 'pair', OPTIONS)

    assert report.step is not None
    assert report.step.images is None
    assert any('could not be counted' in note for note in report.notes)


def test_a_loss_of_labels_that_is_no_number_is_a_problem() -> None:
    report = check({
        'model.architecture.head.loss.class_weight': [math.inf] * 10
    })  # fmt: skip

    (problem,) = report.problems
    assert problem.key == 'model.architecture.head'
    assert re.search(r'student\.loss.* is (nan|inf)', problem.message)


def test_a_recorder_that_no_loss_uses_is_named() -> None:
    source = dict(type='ModuleOutputs', source='backbone.layers.0')

    report = check({f'{DISTILLER}.teacher_recorders.early': source})

    assert report.fits
    assert "No loss uses the teacher recorder 'early'." in report.notes


@pytest.mark.parametrize(
    ('setting', 'said'),
    [
        ({}, True),
        ({'find_unused_parameters': True}, False),
        ({'model_wrapper_cfg.find_unused_parameters': True}, False),
    ],
    ids=['', 'told', 'wrapper told'],
)
def test_parameters_that_no_loss_reaches_are_named(
    setting: dict, said: bool
) -> None:
    unused = dict(type='ConvModuleConnector', in_channel=3, out_channel=3)

    report = check(
        {
            # SeRKDDistiller leaves it out of training.
            f'{DISTILLER}.type': 'ConfigurableDistiller',
            f'{DISTILLER}.connectors.unused': unused,
            **setting,
        }
    )

    assert report.fits
    conv = 'distiller.connectors.unused.conv_module.conv'
    note = f'No loss gives {conv}.weight, {conv}.bias a gradient (2 param'
    assert any(n.startswith(note) for n in report.notes) == said, report.notes


def test_what_goes_into_a_head_may_be_recorded() -> None:
    cfg = config()
    cfg.model.distiller.pop('connectors')
    cfg.model.distiller.distill_losses = dict(
        loss_distance=dict(type='DistanceWiseRKD')
    )
    for side, head in (('student', 'head_dist'), ('teacher', 'head')):
        cfg.model.distiller[f'{side}_recorders'] = dict(
            embedding=dict(type='ModuleInputs', source=f'head.layers.{head}')
        )
    cfg.model.distiller.loss_forward_mappings = dict(
        loss_distance={
            f'preds_{side}': dict(
                recorder='embedding', from_student=side == 'S', data_idx=0
            )
            for side in 'ST'
        }
    )

    report = check_pair(cfg, 'pair', OPTIONS)

    assert report.fits
    assert [r.shape for r in report.records] == ['[(4, 48)]', '[(4, 96)]']
    assert report.losses[1].gradients['embedding'] > 0


def test_a_config_without_teacher_is_none_of_a_distillation() -> None:
    with pytest.raises(ValueError, match='no architecture, teacher, dist'):
        check_pair(read_config('serkd_mm::quickstart/student.py'), 'student')


# -- what is shown ----------------------------------------------------------


@pytest.mark.parametrize('width', [80, 100])
def test_the_tables_fit_on_a_terminal(fitting: PairReport, width: int) -> None:
    lines = text(fitting, width).splitlines()

    assert max(map(len, lines)) <= width
    said = '\n'.join(lines)
    for part in (
        'RANDOM',
        'backbone.ln1',
        '(4, 66, 48)',
        '4x4 = 16',
        'distill.loss_angle',
        '63.6 k',
        '1,000 images',
        '40 epochs',
        'Everything fits.',
    ):
        assert part in said


@pytest.mark.parametrize(
    ('number', 'shown'),
    [
        (999, '999'),
        (63_572, '63.6 k'),
        (999_499, '999 k'),
        (999_600, '1 M'),
        (1_784, '1.78 k'),
        (1_784e9, '1.78 T'),
        (2_500e12, '2,500 T'),
    ],
)
def test_counts_have_three_digits_and_a_unit(
    number: float, shown: str
) -> None:
    assert pair_tables._metric(int(number)) == shown


def test_the_findings_can_be_read_by_programs(
    fitting: PairReport, tmp_path: Path
) -> None:
    path = tmp_path / 'folder' / 'pair.json'

    save_pair(fitting, path)

    found = json.loads(path.read_text())
    assert found['fits'] is True
    assert found['tokens'][2]['superpixels'] == [4, 4]
    assert found['losses'][3]['name'] == 'distill.loss_distance'
    assert found['step']['epoch_seconds'] == pytest.approx(
        found['step']['milliseconds'] / 4
    )
