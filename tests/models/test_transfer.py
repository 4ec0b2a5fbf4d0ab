# Copyright (c) The serkd_mm authors. All rights reserved.
"""An exported student is fine-tuned with a new head, its distillation token
kept or dropped by the config."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from mmrazor.registry import MODELS as MMRAZOR_MODELS
from torch import Tensor, nn

from serkd_mm.engine.export import export_student
from serkd_mm.engine.pretrained_checks import (
    check_load_from,
    check_pretrained,
)

from .builders import build

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
TRANSFER = 'transfer/cifar100/deit-ti_8xb96-1000e_cifar100.py'
# As the leaves say it: what a user writes behind --cfg-options.
DROP = {
    'model.backbone.type': 'UndistilledVisionTransformer',
    'model.head.type': 'VisionTransformerClsHead',
}
DIST_TOKEN = {'dist_token', 'pos_embed'}


@pytest.fixture(scope='module')
def student(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict]:
    """Checkpoint of an exported student, and its weights."""
    folder = tmp_path_factory.mktemp('student')
    cfg = Config.fromfile(CONFIGS / 'quickstart' / 'serkd.py')
    cfg.model.teacher_ckpt = None
    cfg.model.allow_random_teacher = True
    model = cfg.copy().model
    model.data_preprocessor = dict(cfg.data_preprocessor)
    built = MMRAZOR_MODELS.build(model)
    built.init_weights()
    path = folder / 'epoch_1.pth'
    state = dict(meta=dict(cfg=cfg.pretty_text), state_dict=built.state_dict())
    torch.save(state, path)
    weights = export_student(str(path), str(folder / 'student.pth')).checkpoint
    return str(weights), torch.load(weights)['state_dict']


def transferred(checkpoint: str, **options: object) -> nn.Module:
    """The model of a transfer config, at the size of the student."""
    cfg = Config.fromfile(CONFIGS / TRANSFER)
    cfg.merge_from_dict(
        {
            'model.backbone.arch': dict(
                _delete_=True,
                embed_dims=48,
                num_layers=3,
                num_heads=3,
                feedforward_channels=96,
            ),
            'model.backbone.img_size': 32,
            'model.backbone.patch_size': 4,
            'model.backbone.init_cfg.checkpoint': checkpoint,
            'model.head.in_channels': 48,
            **options,
        }
    )
    model = MODELS.build(
        dict(cfg.model, data_preprocessor=cfg.data_preprocessor)
    )
    model.init_weights()
    return model


def backbone_of(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    start = 'backbone.'
    return {k[len(start) :]: v for k, v in weights.items() if start in k}


def test_the_token_is_kept_and_the_head_replaced(student: tuple) -> None:
    checkpoint, weights = student

    model = transferred(checkpoint)

    expected, actual = backbone_of(weights), model.backbone.state_dict()
    assert expected.keys() == actual.keys()
    assert all(torch.equal(actual[key], expected[key]) for key in expected)
    assert model.head.layers.head.weight.shape == (100, 48)
    assert model.head.layers.head_dist.weight.shape == (100, 48)


def test_a_checkpoint_of_another_width_is_no_start(student: tuple) -> None:
    narrow = dict(
        _delete_=True,
        embed_dims=24,
        num_layers=3,
        num_heads=3,
        feedforward_channels=48,
    )
    check_pretrained(transferred(student[0]))
    # MMEngine says so in the log and goes on with random weights.
    options = {'model.backbone.arch': narrow, 'model.head.in_channels': 24}
    other = transferred(student[0], **options)

    with pytest.raises(ValueError, match=r'48\) there and .*24\) here; name'):
        check_pretrained(other)

    other.backbone.init_cfg['prefix'] = 'student'
    with pytest.raises(ValueError, match="none of cls_token, .* 'student.'"):
        check_pretrained(other)


def test_a_start_from_which_nothing_is_taken_is_refused(
    tmp_path: Path,
) -> None:
    """MMEngine prints what it did not find and trains random weights."""
    distillation, path = build(), str(tmp_path / 'weights.pth')

    def start_from(weights: dict) -> None:
        torch.save(dict(state_dict=weights), path)
        check_load_from(path, distillation)

    student = distillation.architecture.state_dict()
    start_from(distillation.state_dict())
    # Another head is the affair of whoever leaves it out.
    start_from({f'architecture.{k}': student[k] for k in [*student][:3]})
    with pytest.raises(
        ValueError,
        match=r"'.*weights.pth' gives no weight: .*student by its"
        r'elf, .*model\.architecture\.init_cfg=',
    ):
        start_from(student)
    with pytest.raises(ValueError, match='; name a checkpoint of this config'):
        start_from(dict(weight=torch.zeros(1)))


def test_the_prefix_of_wrappers_is_no_other_network(
    student: tuple, tmp_path: Path
) -> None:
    model = transferred(student[0])
    wrapped = {f'module.{k}': v for k, v in model.state_dict().items()}
    torch.save(wrapped, tmp_path / 'wrapped.pth')
    # MMEngine takes it off where no prefix is asked for.
    model.init_cfg = dict(
        type='Pretrained', checkpoint=str(tmp_path / 'wrapped.pth')
    )

    check_pretrained(model)


def test_the_token_is_dropped_from_the_weights_too(student: tuple) -> None:
    checkpoint, weights = student

    model = transferred(checkpoint, **DROP)

    expected, actual = backbone_of(weights), model.backbone.state_dict()
    assert expected.keys() - actual.keys() == {'dist_token'}
    shared = expected.keys() - DIST_TOKEN
    assert all(torch.equal(actual[key], expected[key]) for key in shared)
    embedding = expected['pos_embed']
    assert actual['pos_embed'].shape == (1, 65, 48)
    assert torch.equal(actual['pos_embed'][:, 0], embedding[:, 0])
    assert torch.equal(actual['pos_embed'][:, 1:], embedding[:, 2:])
    assert not hasattr(model.head.layers, 'head_dist')


def test_without_the_token_the_rest_computes_what_it_did(
    student: tuple,
) -> None:
    checkpoint, _ = student
    dropped = transferred(checkpoint, **DROP).backbone
    kept = transferred(checkpoint).backbone
    # Nothing attends to the distillation token.
    original = nn.functional.scaled_dot_product_attention

    def without(query: Tensor, key: Tensor, value: Tensor, **_: object):
        others = [0, *range(2, key.shape[2])]
        return original(query, key[:, :, others], value[:, :, others])

    # MMPretrain's backbones return nothing here.
    dropped.eval()
    kept.eval()
    image = torch.randn(2, 3, 32, 32)
    (expected,) = dropped(image)
    for layer in kept.layers:
        layer.attn.scaled_dot_product_attention = without
    ((actual, _),) = kept(image)

    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_a_fine_tuned_checkpoint_is_loaded_unchanged(student: tuple) -> None:
    state = transferred(student[0], **DROP).state_dict()
    other = transferred(student[0], **DROP)
    nn.init.zeros_(other.backbone.pos_embed)

    other.load_state_dict(state)
    # MMPretrain's own ViT takes the weights too.
    plain = transferred(
        student[0],
        **{**DROP, 'model.backbone.type': 'VisionTransformer'},
        **{'model.backbone.init_cfg': None},
    )
    plain.load_state_dict(state)

    assert torch.equal(other.backbone.pos_embed, state['backbone.pos_embed'])
    assert torch.equal(plain.backbone.pos_embed, state['backbone.pos_embed'])


@pytest.mark.parametrize('options', [{}, DROP], ids=['kept', 'dropped'])
def test_every_weight_takes_part_in_fine_tuning(
    options: dict, student: tuple
) -> None:
    model = transferred(student[0], **options).train()
    # From MMPretrain's head of zeros no gradient reaches the backbone.
    for layer in model.head.layers:
        nn.init.normal_(layer.weight, std=0.1)
    samples = [DataSample().set_gt_label(label) for label in (3, 99)]
    batch = dict(
        inputs=torch.randint(0, 256, (2, 3, 32, 32)), data_samples=samples
    )

    data = model.data_preprocessor(batch, training=True)
    losses = model(**data, mode='loss')
    losses['loss'].backward()

    idle = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum() > 0
    ]
    assert idle == []


def test_a_checkpoint_that_is_no_student_is_refused(tmp_path: Path) -> None:
    path = tmp_path / 'other.pth'
    torch.save({'state_dict': {'architecture.x': torch.ones(1)}}, path)
    with pytest.raises(AssertionError, match='backbone. is not in the pretr'):
        transferred(str(path))
    with pytest.raises(FileNotFoundError, match=r'absent\.pth'):
        transferred('absent.pth')
