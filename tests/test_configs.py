# Copyright (c) The serkd_mm authors. All rights reserved.
"""Every config builds and trains; networks are swapped by options."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS
from torch import Tensor, nn
from torchvision.models import RegNet_Y_16GF_Weights, get_model

from serkd_mm.models import TokenAngleLoss, TokenDistanceLoss
from serkd_mm.models.algorithms.teacher import build_teacher

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'
LEAVES = sorted(
    str(path.relative_to(CONFIGS))
    for path in CONFIGS.rglob('*.py')
    if '_base_' not in path.parts
)
TRANSFER = [name for name in LEAVES if name.startswith('transfer/')]
WITHOUT_TEACHER = [
    'cifar10/resnet56.py',
    'cifar10/student.py',
    'digits/student.py',
    'quickstart/student.py',
    'quickstart/teacher.py',
    *TRANSFER,
]
DISTILLED = [name for name in LEAVES if name not in WITHOUT_TEACHER]
DEIT = ['serkd_deit-s.py', 'serkd_deit-ti.py']
LOSSES = {
    'student.loss',
    'distill.loss_kd',
    'distill.loss_feature',
    'distill.loss_distance',
    'distill.loss_angle',
}

# Losses and relation tokens of the configs that start so, where they are not
# all five and 49.
STAGES = ' '.join(f'distance{i} angle{i}' for i in (1, 2, 3))
LOSSES_OF = {
    'ablations/refine': f'kd {STAGES}',
    'ablations/table5_angle': 'kd feature angle',
    'ablations/table5_distance_': 'kd feature distance',
    'ablations/table5_distance-angle': 'kd distance angle',
    'ablations/table7_feature': 'kd feature',
    'ablations/table7_kd': 'kd',
    'cnn/kd': 'kd',
    'cnn/rkd': 'distance angle',
    'cnn/serkd': f'kd {STAGES}',
    'methods/cskd': 'kd spatial',
    'methods/dearkd': 'kd early1 early2',
    **{
        f'{folder}/{method}.py': losses
        for folder in ('cifar10', 'digits')
        for method, losses in (
            ('fitnet', 'kd feature'),
            ('fitnet-only', 'feature'),
            ('hard', 'kd'),
            ('kd', 'kd'),
            ('rkd', 'kd distance angle'),
            ('serkd_no-feature', 'kd distance angle'),
        )
    },
    'methods/dist': 'kd',
    'methods/dkd': 'kd',
    'methods/fitnet-only': 'feature',
    'methods/fitnet_': 'kd feature',
    'methods/hard': 'kd',
    'methods/kd': 'kd',
    'methods/rkd': 'kd distance angle',
    'methods/soft': 'kd',
}
TOKENS_OF = {
    'ablations/table8_grid-1': 196,
    'ablations/table8_grid-4': 16,
    **{
        f'{folder}/{tokens}': count
        for folder in ('cifar10', 'digits')
        for tokens, count in (
            ('direct', 64),
            ('avg-pool', 16),
            ('max-pool', 16),
            ('serkd', 16),
        )
    },
    'methods/direct': 196,
    'quickstart/': 16,
}


def read(name: str, **options: Any) -> Config:
    """A config with options, as ``--cfg-options`` would set them.

    Without the trial at building: the tests that need it ask for it, and the
    others train.
    """
    cfg = Config.fromfile(CONFIGS / name)
    if 'teacher' in cfg.model:
        cfg.merge_from_dict(
            {
                'model.teacher_ckpt': None,
                'model.allow_random_teacher': True,
                'model.input_size': 0,
            }
        )
    elif name in TRANSFER:
        cfg.model.backbone.init_cfg = None
    cfg.merge_from_dict(options)
    return cfg


def build(cfg: Config) -> nn.Module:
    """The model as MMEngine's Runner builds it."""
    model = cfg.model.copy()
    model.setdefault('data_preprocessor', cfg.data_preprocessor)
    built = MODELS.build(model)
    built.init_weights()
    return built.train()


def random_batch(cfg: Config, size: int = 2) -> dict:
    student = cfg.model.get('architecture', cfg.model)
    pixels = student.backbone.get('img_size', 224)
    classes = student.head.num_classes
    return dict(
        inputs=torch.randint(0, 256, (size, 3, pixels, pixels)).float(),
        data_samples=[
            DataSample().set_gt_label(int(label))
            for label in torch.randint(classes, (size,))
        ],
    )


def train(
    cfg: Config, model: nn.Module, size: int = 2, steps: int = 1
) -> dict[str, Tensor]:
    """Steps of training; all trainable parameters must take part in each."""
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
    for _ in range(steps):
        optimizer.zero_grad()
        data = model.data_preprocessor(random_batch(cfg, size), training=True)
        losses = model(**data, mode='loss')
        loss, _ = model.parse_losses(losses)
        optimizer.backward(loss)
        without = [n for n, p in trainable.items() if p.grad is None]
        broken = [
            n
            for n, p in trainable.items()
            if p.grad is not None and not torch.isfinite(p.grad).all()
        ]
        assert (without, broken) == ([], [])
        before = {n: p.detach().clone() for n, p in trainable.items()}
        optimizer.step()
        assert any(not torch.equal(p, before[n]) for n, p in trainable.items())
        assert all(torch.isfinite(value) for value in losses.values())
    if steps > 2:
        # Heads and residual branches that start at zero have passed it.
        assert [n for n, p in trainable.items() if not p.grad.any()] == []
    # What else is logged is no loss.
    return {name: value for name, value in losses.items() if 'loss' in name}


def of(table: dict[str, Any], name: str, default: Any) -> Any:
    """Entry of the table for the configs that start as this one."""
    entries = [table[start] for start in table if name.startswith(start)]
    assert len(entries) <= 1
    return entries[0] if entries else default


def watch_relations(model: nn.Module) -> list[tuple]:
    """Shapes ``(B, K, C)`` that the token relation losses will be given."""
    shapes: list[tuple] = []

    def note(module: nn.Module, args: tuple, kwargs: dict) -> None:
        shapes.extend(tuple(value.shape) for value in kwargs.values())

    for loss in model.distiller.distill_losses.values():
        if isinstance(loss, (TokenDistanceLoss, TokenAngleLoss)):
            loss.register_forward_pre_hook(note, with_kwargs=True)
    return shapes


def test_all_configs_are_known_to_the_tests() -> None:
    assert set(DEIT) < set(DISTILLED) < set(LEAVES)
    assert len(LEAVES) >= 73
    assert len(TRANSFER) == 6
    for start in [*LOSSES_OF, *TOKENS_OF]:
        assert any(name.startswith(start) for name in LEAVES)


@pytest.mark.parametrize('folder', sorted({Path(n).parent for n in LEAVES}))
def test_a_run_of_every_folder_survives_being_killed(folder: Path) -> None:
    name = next(n for n in LEAVES if Path(n).parent == folder)
    hooks = Config.fromfile(CONFIGS / name).default_hooks

    assert hooks.checkpoint.type == 'AtomicCheckpointHook'
    assert hooks.exact_resume.type == 'ExactResumeHook'


@pytest.mark.slow
@pytest.mark.parametrize('name', WITHOUT_TEACHER)
def test_the_config_without_teacher_trains(name: str) -> None:
    cfg = read(name)

    losses = train(cfg, build(cfg), steps=3)

    assert all(torch.isfinite(value) for value in losses.values())


@pytest.mark.slow
@pytest.mark.parametrize('name', DISTILLED)
def test_the_config_builds_and_trains(name: str) -> None:
    cfg = read(name)
    model = build(cfg)
    shapes = watch_relations(model)

    # The relation of two images is the same in every network.
    size = 3 if 'InstanceDistanceLoss' in cfg.text else 2
    losses = train(cfg, model, size, steps=3)

    assert all(0 < value < 100 for value in losses.values())
    parts = of(LOSSES_OF, name, 'kd feature distance angle').split()
    expected = {f'distill.loss_{part}' for part in parts}
    labels = {'student.loss'}
    if cfg.model.architecture.head.get('label_dist_head'):
        labels.add('student.loss_dist_head')
    assert set(losses) == labels | expected
    if shapes:
        tokens = {shape[:2] for shape in shapes}
        assert tokens == {(2, of(TOKENS_OF, name, 49))}


@pytest.mark.parametrize('name', DISTILLED)
def test_a_config_with_teacher_does_not_start_from_a_random_one(
    name: str,
) -> None:
    cfg = Config.fromfile(CONFIGS / name)

    assert cfg.model.teacher_ckpt
    assert not cfg.model.get('allow_random_teacher', False)


@pytest.mark.parametrize('name', DEIT)
def test_the_deit_configs_have_the_papers_settings(name: str) -> None:
    cfg = read(name)

    losses = cfg.model.distiller.distill_losses
    assert {key: loss.loss_weight for key, loss in losses.items()} == {
        'loss_kd': 1.0,
        'loss_feature': 1.0,
        'loss_distance': 0.5,
        'loss_angle': 1.0,
    }
    assert losses.loss_kd.tau == 1.0
    assert cfg.train_dataloader.batch_size * 8 == 1024
    assert cfg.auto_scale_lr.base_batch_size == 1024
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(1e-3)
    assert cfg.train_cfg.max_epochs == 300
    for side in ('student', 'teacher'):
        chain = cfg.model.distiller.connectors[f'{side}_superpixels']
        assert tuple(chain[1].grid_size) == (2, 2)
        assert chain[1].get('num_iters', 1) == 1


@pytest.mark.parametrize(
    ('name', 'arch', 'width'),
    [
        ('serkd_deit-s.py', 'deit-small', 384),
        ('serkd_deit-ti.py', 'deit-tiny', 192),
    ],
)
def test_the_deit_configs_name_their_student(
    name: str, arch: str, width: int
) -> None:
    model = read(name).model

    assert model.architecture.backbone.arch == arch
    assert model.architecture.head.in_channels == width
    feature = model.distiller.distill_losses.loss_feature
    assert (feature.student_channels, feature.teacher_channels) == (width, 768)


# -- tables of the paper ----------------------------------------------------

# KD, feature, distance and angle weight, and top-1 of the Ti and S student.
TABLE_7 = [
    ('ablations/table7_kd-0.1', 0.1, 0, 0, 0, '73.0', '80.7'),
    ('ablations/table7_kd-0.5', 0.5, 0, 0, 0, '73.8', '81.0'),
    ('methods/kd', 1, 0, 0, 0, '74.1', '81.2'),
    ('ablations/table7_kd-2', 2, 0, 0, 0, '74.0', '81.0'),
    ('methods/fitnet', 1, 1, 0, 0, '74.2', '81.3'),
    ('ablations/table7_feature-2', 1, 2, 0, 0, '74.2', '81.2'),
    (
        'ablations/table7_distance-0.1_angle-0.1',
        1,
        1,
        0.1,
        0.1,
        '76.1',
        '81.9',
    ),
    (
        'ablations/table7_distance-0.5_angle-0.5',
        1,
        1,
        0.5,
        0.5,
        '76.6',
        '82.4',
    ),
    ('ablations/table7_distance-1_angle-1', 1, 1, 1, 1, '76.2', '82.0'),
    (
        'ablations/table7_distance-0.5_angle-0.1',
        1,
        1,
        0.5,
        0.1,
        '76.4',
        '82.2',
    ),
    ('serkd', 1, 1, 0.5, 1, '76.8', '82.5'),
    ('ablations/table7_distance-0.5_angle-2', 1, 1, 0.5, 2, '76.7', '82.5'),
]
PAPER = {
    'ablations/iters-2_deit-ti.py': '76.6',
    'ablations/iters-3_deit-ti.py': '76.2',
    'ablations/table8_grid-1_deit-ti.py': '73.9',
    'ablations/table8_grid-4_deit-ti.py': '74.5',
    'cnn/kd_resnet101_resnet18_8xb32_in1k.py': '71.09',
    'cnn/rkd_resnet101_resnet18_8xb32_in1k.py': '71.82',
    'cnn/serkd-avg_resnet101_resnet18_8xb32_in1k.py': '72.22',
    'cnn/serkd-conv_resnet101_resnet18_8xb32_in1k.py': '72.25',
    'cnn/serkd-max_resnet101_resnet18_8xb32_in1k.py': '70.61',
    'methods/avg-pool_deit-ti.py': '73.8',
    'methods/cskd_deit-ti.py': '76.3',
    'methods/dearkd_deit-ti.py': '74.8',
    'methods/direct_deit-ti.py': '73.9',
    'methods/fitnet_deit-s.py': '81.3',
    'methods/hard_regnety-16gf_deit-ti.py': '74.5',
    'methods/kd_deit-s.py': '81.2',
    'methods/max-pool_deit-ti.py': '73.3',
    'serkd_deit-s.py': '82.5',
    'transfer/cars/deit-s_8xb96-1000e_cars.py': '94.1',
    'transfer/cars/deit-ti_8xb96-1000e_cars.py': '93.6',
    'transfer/cifar10/deit-s_8xb96-1000e_cifar10.py': '99.2',
    'transfer/cifar10/deit-ti_8xb96-1000e_cifar10.py': '98.6',
    'transfer/cifar100/deit-s_8xb96-1000e_cifar100.py': '91.3',
    'transfer/cifar100/deit-ti_8xb96-1000e_cifar100.py': '87.8',
    **{f'{row[0]}_deit-ti.py': row[5] for row in TABLE_7},
}


def header(name: str) -> str:
    """Comment at the head of a config, on one line."""
    lines = (CONFIGS / name).read_text().splitlines()
    end = next(i for i, line in enumerate(lines) if not line.startswith('#'))
    return ' '.join(line.lstrip('# ') for line in lines[:end])


@pytest.mark.parametrize('row', TABLE_7, ids=lambda row: row[0])
def test_a_row_of_table_7_has_its_weights(row: tuple) -> None:
    losses = read(f'{row[0]}_deit-ti.py').model.distiller.distill_losses

    parts = zip(('kd', 'feature', 'distance', 'angle'), row[1:5])
    expected = {f'loss_{part}': weight for part, weight in parts if weight}
    assert {k: loss.loss_weight for k, loss in losses.items()} == expected


@pytest.mark.parametrize(
    ('name', 'grid', 'iters'),
    [
        ('table8_grid-1', 1, 1),
        ('table8_grid-4', 4, 1),
        ('iters-2', 2, 2),
        ('iters-3', 2, 3),
    ],
)
def test_both_sides_of_an_ablation_cluster_alike(
    name: str, grid: int, iters: int
) -> None:
    model = read(f'ablations/{name}_deit-ti.py').model

    for side in ('student', 'teacher'):
        chain = model.distiller.connectors[f'{side}_superpixels']
        assert tuple(chain[1].grid_size) == (grid, grid)
        assert chain[1].get('num_iters', 1) == iters
        assert chain[1].norm == 'ln'


@pytest.mark.parametrize('name', [*DISTILLED, *TRANSFER])
def test_a_header_names_the_papers_number_and_no_other(name: str) -> None:
    text = header(name)

    if name in PAPER:
        assert f': {PAPER[name]} (paper' in text
    else:
        assert '(paper' not in text
    if not name.startswith(('quickstart/', 'digits/')):
        assert 'not run' in text


@pytest.mark.parametrize(
    ('study', 'place'),
    [
        ('digits', 'Top-1: {} with 2 labels per class'),
        ('digits-5', ', {} with 5 (study digits-5).'),
    ],
)
def test_headers_of_the_digits_name_what_the_studies_measured(
    study: str, place: str
) -> None:
    path = CONFIGS.parent / 'resources' / 'studies' / f'{study}.csv'
    with path.open() as file:
        rows = list(csv.DictReader(file))
    table = path.with_suffix('.md').read_text()
    teacher = re.findall(r'- Teacher: teacher, top-1 ([\d.]+\d)', table)

    for row in rows:
        mean, std = float(row['top1_mean']), float(row['top1_std'])
        text = header(f'digits/{row["experiment"]}.py')
        assert place.format(f'{mean:.2f} ± {std:.2f}') in text
        named = re.findall(r'Teacher: .*, ([\d.]+\d) top-1', text)
        assert named == ([] if row['experiment'] == 'student' else teacher)


def test_the_readme_has_a_row_for_every_config() -> None:
    table = (CONFIGS / 'README.md').read_text()
    rows = [line for line in table.splitlines() if line.startswith('|')]

    for name in [*DISTILLED, *TRANSFER]:
        own = [row for row in rows if f']({name})' in row]
        assert own, name
        assert any(PAPER.get(name, '') in row for row in own), name
    for row in TABLE_7:
        cells = [str(cell) for cell in row[1:]]
        assert f'| {" | ".join(cells)} | not run |' in table
    links = re.findall(r'\]\(([^)#:]+)\)', table)
    assert all((CONFIGS / link).is_file() for link in links)


def test_the_readmes_options_make_the_small_student() -> None:
    options = {
        'model.architecture.backbone.arch': 'deit-small',
        'model.architecture.head.in_channels': 384,
        f'{FEATURE}.student_channels': 384,
    }
    for name in ('methods/fitnet', 'serkd'):
        tiny = read(f'{name}_deit-ti.py', **options)
        assert tiny.model == read(f'{name}_deit-s.py').model


# -- methods ----------------------------------------------------------------


def test_the_strided_convolution_is_one_module_for_both_networks() -> None:
    cfg = read('cnn/serkd-conv_resnet101_resnet18_8xb32_in1k.py')
    model = build(cfg)

    train(cfg, model)

    distiller = model.distiller
    assert set(distiller.connectors) == {'stage1', 'stage2', 'stage3'}
    for mapping in list(distiller.loss_forward_mappings.values())[1:]:
        assert mapping.preds_S.connector == mapping.preds_T.connector
    for name, stride in (('stage1', 4), ('stage2', 2)):
        kernel = distiller.connectors[name][0].kernel
        assert kernel.shape == (1, 1, stride, stride)
        assert float(kernel.grad.abs().sum()) > 0


def test_only_the_students_superpixels_are_refined() -> None:
    cfg = read('ablations/refine_resnet101_resnet18_8xb32_in1k.py')

    distiller = build(cfg).distiller

    refined = {n for n, c in distiller.connectors.items() if c[1].refine}
    assert refined == {'student_stage1', 'student_stage2', 'student_stage3'}
    relations = list(distiller.loss_forward_mappings.values())[1:]
    assert len(relations) == 6
    for mapping in relations:
        teacher = mapping.preds_T.connector
        assert mapping.preds_S.connector == f'student_{teacher}'


@pytest.mark.parametrize(
    ('name', 'labels', 'teacher'),
    [('hard', 0.5, 0.5), ('soft', 0.9, 0.1), ('kd', 1.0, 1.0)],
)
def test_deits_distillation_has_deits_weights(
    name: str, labels: float, teacher: float
) -> None:
    model = read(f'methods/{name}_deit-ti.py').model

    assert model.architecture.head.loss.get('loss_weight', 1.0) == labels
    assert model.distiller.distill_losses.loss_kd.loss_weight == teacher


def test_the_association_of_stvit_is_ours_without_its_gradient() -> None:
    model = read('methods/serkd-stvit_deit-ti.py').model
    base = read('serkd_deit-ti.py').model

    chain = model.distiller.connectors.student_superpixels
    assert chain[1].pop('differentiable_assignment') is False
    assert model == base


def test_cskd_is_deits_distillation_and_one_loss_more() -> None:
    model = read('methods/cskd_deit-ti.py').model
    base = read('methods/hard_regnety-16gf_deit-ti.py').model

    spatial = model.distiller.distill_losses.pop('loss_spatial')
    mapping = model.distiller.loss_forward_mappings.pop('loss_spatial')
    del model.distiller.connectors
    for side in ('student', 'teacher'):
        recorders = model.distiller[f'{side}_recorders']
        for name in {record.recorder for record in mapping.values()}:
            del recorders[name]
    assert model == base
    assert spatial == dict(
        type='CSKDLoss', target='hard', schedule='linear', loss_weight=1.0
    )


def test_a_regnet_teacher_fits_torchvisions_checkpoint() -> None:
    model = read('methods/hard_regnety-16gf_deit-ti.py').model
    original = get_model('regnet_y_16gf', weights=None).state_dict()

    weights = {}
    for key, value in original.items():
        for pattern, replacement in model.teacher_revise_keys:
            key = re.sub(pattern, replacement, key)
        weights[key] = value.shape

    teacher = build_teacher(model.teacher).state_dict()
    assert weights == {key: value.shape for key, value in teacher.items()}


@pytest.mark.parametrize('method', ['hard', 'soft'])
def test_deits_teacher_takes_the_place_of_ours(method: str) -> None:
    model = Config.fromfile(CONFIGS / f'methods/{method}_deit-ti.py').model
    other = Config.fromfile(
        CONFIGS / f'methods/{method}_regnety-16gf_deit-ti.py'
    ).model

    assert other.pop('teacher') != model.pop('teacher')
    ckpt = other.pop('teacher_ckpt')
    assert ckpt == RegNet_Y_16GF_Weights.IMAGENET1K_V2.url
    assert other.pop('teacher_revise_keys')
    model.pop('teacher_ckpt')
    assert other == model


@pytest.mark.parametrize('zeros', [False, True])
def test_dist_starts_from_a_head_with_moderate_gradients(zeros: bool) -> None:
    cfg = read('methods/dist_deit-ti.py')
    if zeros:
        cfg.model.architecture.head.pop('init_cfg')
    model = build(cfg)
    data = model.data_preprocessor(random_batch(cfg), training=True)

    model(**data, mode='loss')['distill.loss_kd'].backward()

    head = model.student.head.layers.head_dist.weight.grad
    assert (float(head.norm()) > 1000) == zeros


# -- swaps ------------------------------------------------------------------

TEACHER = 'model.teacher.cfg_path'
TOKENS = 'model.distiller.teacher_recorders.tokens.source'
LOGITS = 'model.distiller.teacher_recorders.logits.source'
FEATURE = 'model.distiller.distill_losses.loss_feature'
CONNECTORS = 'model.distiller.connectors'

# Teachers for the student of serkd_deit-ti.py, all with 14x14 positions.
TEACHERS = {
    'ResNet-50': {
        TEACHER: 'mmpretrain::resnet/resnet50_8xb32_in1k.py',
        TOKENS: 'backbone.layer3',
        f'{FEATURE}.teacher_channels': 1024,
    },
    'Swin-T': {
        TEACHER: 'mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py',
        TOKENS: 'backbone.stages.2.blocks.5',
        f'{FEATURE}.teacher_channels': 384,
        # A sequence without class token.
        f'{CONNECTORS}.teacher_tokens.num_prefix_tokens': 0,
        f'{CONNECTORS}.teacher_superpixels.0.num_prefix_tokens': 0,
    },
    'ConvNeXt-T': {
        TEACHER: 'mmpretrain::convnext/convnext-tiny_32xb128_in1k.py',
        TOKENS: 'backbone.stages.2',
        f'{FEATURE}.teacher_channels': 384,
    },
    'DeiT-S distilled': {
        TEACHER: 'mmpretrain::deit/deit-small-distilled_4xb256_in1k.py',
        TOKENS: 'backbone.ln1',
        # The mean of both heads.
        LOGITS: 'head',
        f'{FEATURE}.teacher_channels': 384,
        f'{CONNECTORS}.teacher_tokens.num_prefix_tokens': 2,
        f'{CONNECTORS}.teacher_superpixels.0.num_prefix_tokens': 2,
    },
}


@pytest.mark.slow
@pytest.mark.parametrize('teacher', list(TEACHERS))
def test_another_teacher_is_a_matter_of_options(teacher: str) -> None:
    cfg = read('serkd_deit-ti.py', **TEACHERS[teacher])
    model = build(cfg)

    losses = train(cfg, model)

    assert set(losses) == LOSSES
    assert all(torch.isfinite(value) for value in losses.values())


@pytest.mark.slow
def test_a_cnn_student_learns_from_a_vit() -> None:
    # A CNN has one head, whose logits labels and teacher train.
    cfg = read(
        'serkd_deit-ti.py',
        **{
            'model.architecture.backbone': dict(
                _delete_=True, type='ResNet', depth=18
            ),
            'model.architecture.neck': dict(type='GlobalAveragePooling'),
            'model.architecture.head': dict(
                _delete_=True,
                type='LinearClsHead',
                num_classes=1000,
                in_channels=512,
            ),
            'model.distiller.student_recorders.tokens.source': (
                'backbone.layer3'
            ),
            'model.distiller.student_recorders.logits.source': 'head.fc',
            f'{FEATURE}.student_channels': 256,
        },
    )
    model = build(cfg)

    losses = train(cfg, model)

    assert type(model.student.backbone).__name__ == 'ResNet'
    assert set(losses) == LOSSES
    assert all(torch.isfinite(value) for value in losses.values())


def test_a_teacher_with_another_grid_says_what_to_change() -> None:
    cfg = read(
        'quickstart/serkd.py',
        **{
            'model.teacher': dict(
                _delete_=True,
                _scope_='mmpretrain',
                type='ImageClassifier',
                backbone=dict(type='ThinResNetCIFAR', depth=20),
                neck=dict(type='GlobalAveragePooling'),
                head=dict(
                    type='LinearClsHead', num_classes=10, in_channels=64
                ),
            ),
            TOKENS: 'backbone.layer2',
            LOGITS: 'head.fc',
            f'{FEATURE}.teacher_channels': 32,
        },
    )
    cfg.model.input_size = None

    with pytest.raises(ValueError, match='same token grid') as error:
        build(cfg)
    assert '(2, 64, 48) and (2, 256, 32)' in str(error.value)


# -- mistakes ---------------------------------------------------------------


def test_a_student_without_distillation_token_is_told_the_nearest() -> None:
    cfg = read(
        'methods/kd_deit-ti.py',
        **{
            'model.architecture.backbone.type': 'VisionTransformer',
            'model.architecture.head': dict(
                _delete_=True,
                type='VisionTransformerClsHead',
                num_classes=1000,
                in_channels=192,
            ),
        },
    )

    with pytest.raises(ValueError, match='is no module of the stu') as error:
        build(cfg)
    assert "'head.layers.head_dist'" in str(error.value)
    assert 'that is the head of a distillation token, whi' in str(error.value)
    assert 'nearest names: head.layers.head,' in str(error.value)


SERKD_CNN = 'cnn/serkd-avg_resnet101_resnet18_8xb32_in1k.py'
STAGE1 = 'model.distiller.{side}_recorders.stage1.source'
STAGE1_IDX = 'model.distiller.loss_forward_mappings.{loss}.preds_{S}.data_idx'
MISTAKES = {
    'a stride': (
        SERKD_CNN,
        {f'{CONNECTORS}.stage1.0.stride': 5},
        ValueError,
        r'stride \(5, 5\) does not divide the map of H=56, W=56',
    ),
    'a stage': (
        SERKD_CNN,
        {
            STAGE1.format(side='student'): 'backbone',
            STAGE1_IDX.format(loss='loss_distance1', S='S'): 1,
        },
        ValueError,
        r"'stage1' \(source 'backbone'\) recorded 1 items, data_idx=1",
    ),
    'no distillation token': (
        'quickstart/serkd.py',
        {'model.architecture.backbone.type': 'VisionTransformer'},
        TypeError,
        'is a DeiTDistillHead and needs a class and a distillation token, but '
        'model.architecture.backbone, a VisionTransformer, has no dist_token',
    ),
    'classes beside labels': (
        'methods/dkd_deit-ti.py',
        {
            'data_preprocessor.num_classes': 10,
            'model.architecture.head.num_classes': 10,
        },
        ValueError,
        'loss_kd compares logits, but the student has 10 classes and the ',
    ),
    'classes': (
        'methods/cskd_deit-ti.py',
        {
            'data_preprocessor.num_classes': 10,
            'model.architecture.head.num_classes': 10,
        },
        ValueError,
        '10 classes and the teacher 1000',
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize('mistake', list(MISTAKES))
def test_a_mistake_is_named_when_the_config_is_built(mistake: str) -> None:
    name, options, kind, message = MISTAKES[mistake]
    cfg = read(name, **options)
    cfg.model.input_size = Config.fromfile(CONFIGS / name).model.get(
        'input_size'
    )

    with pytest.raises(kind, match=message):
        build(cfg)


@pytest.mark.parametrize('name', DISTILLED)
def test_a_config_is_tried_at_the_size_of_its_images(name: str) -> None:
    cfg = Config.fromfile(CONFIGS / name)

    own = cfg.model.architecture.backbone.get('img_size')
    pipeline = cfg.train_dataloader.dataset.get('dataset', {})
    pipeline = pipeline.get('pipeline') or cfg.train_dataloader.dataset.get(
        'pipeline'
    )
    crops = [t for t in pipeline if 'Crop' in t.type]
    wanted = crops[-1].get('scale') or crops[-1].crop_size if crops else own
    assert cfg.model.get('input_size', own) == wanted


def test_hard_distillation_refuses_a_teacher_of_other_classes() -> None:
    cfg = read(
        'methods/hard_deit-ti.py',
        **{
            'data_preprocessor.num_classes': 10,
            'model.architecture.head.num_classes': 10,
        },
    )

    with pytest.raises(ValueError, match='10 classes and the teacher 1000'):
        build(cfg)
