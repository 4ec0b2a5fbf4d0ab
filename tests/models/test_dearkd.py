# Copyright (c) The serkd_mm authors. All rights reserved.
"""DearKD's student, aligner and two stages."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset

from serkd_mm.models import (
    ConvAttention,
    ConvAttentionDeiT,
    FeatureMapTokenizer,
    TokenAligner,
    TokenFeatureLoss,
    TokenMap,
)
from tests.references import (
    aligned_feature_reference,
    assert_matches,
    conv_attention_reference,
)

from .builders import (
    CLASSES,
    STUDENT_WIDTH,
    algorithm_config,
    batch,
    build,
    cnn_config,
    distiller_config,
    losses_of,
    recorder,
    student_config,
    total,
)

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
HEADS = 2


def conv_student_config(**backbone: Any) -> dict:
    cfg = student_config()
    cfg['backbone'].update(type='ConvAttentionDeiT', **backbone)
    return cfg


def dearkd_config(**overrides: Any) -> dict:
    """Logits and an early map of a CNN for the student's first layer."""
    distiller = distiller_config(losses=('loss_kd',))
    distiller['student_recorders']['early'] = recorder('backbone.layers.0')
    distiller['teacher_recorders'] = dict(
        logits=recorder('head.fc'), early=recorder('backbone.layer1')
    )
    distiller['connectors'] = dict(
        student_early=[
            dict(type='VisualTokens', num_prefix_tokens=2),
            dict(type='TokenAligner', channels=STUDENT_WIDTH),
        ],
        teacher_early=dict(type='FeatureMapTokenizer', mode='avg', stride=8),
    )
    distiller['distill_losses']['loss_early'] = dict(
        type='TokenFeatureLoss',
        student_channels=STUDENT_WIDTH,
        teacher_channels=16,
    )
    distiller['loss_forward_mappings']['loss_early'] = {
        f'preds_{side[0].upper()}': dict(
            recorder='early',
            from_student=side == 'student',
            connector=f'{side}_early',
            connector_idx=0,
        )
        for side in ('student', 'teacher')
    }
    return dict(
        architecture=conv_student_config(num_conv_layers=1),
        teacher=cnn_config(),
        distiller=distiller,
        **overrides,
    )


# -- attention that can be a convolution ------------------------------------


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32])
@pytest.mark.parametrize(('hw', 'prefix'), [((2, 3), 2), ((3, 1), 0)])
def test_attention_and_its_gradient_are_those_of_the_equation(
    dtype: torch.dtype, hw: tuple[int, int], prefix: int
) -> None:
    attention = ConvAttention(HEADS, hw, prefix).to(dtype)
    with torch.no_grad():
        attention.sharpness.copy_(torch.tensor([0.3, -0.2]))
        attention.centers.copy_(torch.tensor([[0.5, -1.0], [0.0, 0.7]]))
    length = prefix + hw[0] * hw[1]
    qkv = [torch.randn(2, HEADS, length, 4).to(dtype) for _ in range(3)]
    upstream = torch.randn(2, HEADS, length, 4).double()
    slow = copy.deepcopy(attention).double()
    leaves = [x.double().requires_grad_() for x in qkv]
    for x in qkv:
        x.requires_grad_()

    actual = attention(*qkv)
    expected = conv_attention_reference(
        *leaves, hw, prefix, slow.sharpness, slow.centers
    )
    (actual * upstream.to(dtype)).sum().backward()
    (expected * upstream).sum().backward()

    assert_matches(actual, expected)
    for mine, theirs in zip(
        [*qkv, *attention.parameters()], [*leaves, *slow.parameters()]
    ):
        assert_matches(mine.grad, theirs.grad, floor=0.1)


def test_without_such_layers_the_student_is_deit() -> None:
    plain = MODELS.build(student_config()['backbone'])
    own = MODELS.build(conv_student_config(num_conv_layers=0)['backbone'])

    own.load_state_dict(plain.state_dict())

    images = torch.randn(2, 3, 32, 32)
    for a, b in zip(own(images)[-1], plain(images)[-1]):
        assert torch.equal(a, b)


def test_the_first_layers_have_positions_and_the_others_not() -> None:
    backbone = MODELS.build(conv_student_config(num_conv_layers=1)['backbone'])
    plain = MODELS.build(student_config()['backbone'])

    added = set(backbone.state_dict()) - set(plain.state_dict())
    name = 'layers.0.attn.scaled_dot_product_attention'
    assert added == {f'{name}.sharpness', f'{name}.centers'}
    assert backbone.layers[0].attn.scaled_dot_product_attention.hw == (4, 4)

    backbone.load_state_dict(plain.state_dict(), strict=False)
    images = torch.randn(2, 3, 32, 32)
    backbone.eval()
    local = backbone(images)[-1][0]
    assert not torch.allclose(local, plain(images)[-1][0], atol=1e-3)
    nn.init.zeros_(
        backbone.layers[0].attn.scaled_dot_product_attention.sharpness
    )
    torch.testing.assert_close(backbone(images)[-1][0], plain(images)[-1][0])


def test_dropout_takes_positions_away_in_training_only() -> None:
    attention = ConvAttention(HEADS, (3, 3), 2, drop_rate=1.0)
    qkv = [torch.randn(1, HEADS, 11, 4) for _ in range(3)]
    content = nn.functional.scaled_dot_product_attention(*qkv)

    torch.testing.assert_close(attention(*qkv), content)
    assert not torch.allclose(attention.eval()(*qkv), content, atol=1e-2)


def test_images_of_another_size_are_refused() -> None:
    backbone = MODELS.build(
        conv_student_config()['backbone'] | {'num_conv_layers': 1}
    )

    with pytest.raises(ValueError, match='grid of 4x4, got .* L=66') as error:
        backbone(torch.randn(1, 3, 64, 64))
    assert 'img_size' in str(error.value)


def test_more_such_layers_than_layers_are_refused() -> None:
    with pytest.raises(ValueError, match=r'\[0, 12\].*got 13'):
        ConvAttentionDeiT('deit-tiny', num_conv_layers=13)


# -- aligner and feature loss -----------------------------------------------


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32])
def test_the_feature_loss_and_its_gradient_are_those_worked_out(
    dtype: torch.dtype,
) -> None:
    aligner = TokenAligner(5).to(dtype)
    nn.init.normal_(aligner.conv.weight)
    nn.init.normal_(aligner.conv.bias)
    loss = TokenFeatureLoss(5, 3).to(dtype)
    tokens = torch.randn(2, 6, 5).to(dtype).requires_grad_()
    maps = torch.randn(2, 3, 4, 9).to(dtype).requires_grad_()
    leaf = tokens.detach().double().requires_grad_()
    slow = copy.deepcopy(aligner).double()
    conv, projection = slow.conv, copy.deepcopy(loss).double().projection

    wanted = FeatureMapTokenizer(stride=(2, 3)).forward_train(maps)
    actual = loss(aligner(TokenMap(tokens, (2, 3))).tokens, wanted.tokens)
    expected = aligned_feature_reference(
        leaf.unflatten(1, (2, 3)),
        maps,
        (conv.weight, conv.bias),
        (projection.weight, projection.bias),
    )
    (3 * actual).backward()
    (3 * expected).backward()

    # The comparison itself is in single precision.
    single = actual.float()
    assert_matches(single, expected)
    assert_matches(tokens.grad.float(), leaf.grad, floor=0.1)
    assert_matches(
        aligner.conv.weight.grad.float(), conv.weight.grad, floor=0.1
    )
    assert maps.grad is None


def test_the_aligner_starts_as_the_norm_alone() -> None:
    tokens = torch.randn(2, 6, 5)

    aligned, hw = TokenAligner(5)(TokenMap(tokens, (3, 2)))

    assert hw == (3, 2)
    torch.testing.assert_close(aligned, nn.functional.layer_norm(tokens, (5,)))


def test_tokens_that_do_not_fit_the_aligner_are_refused() -> None:
    aligner = TokenAligner(5)
    with pytest.raises(TypeError, match='tokens with their grid, got Tensor'):
        aligner(torch.zeros(1, 4, 5))
    with pytest.raises(ValueError, match='4 channels.*set channels=4'):
        aligner(TokenMap(torch.zeros(1, 4, 4), (2, 2)))


# -- two stages -------------------------------------------------------------


def test_stage_one_trains_every_parameter() -> None:
    model = build(**dearkd_config())

    losses = losses_of(model)
    total(losses).backward()

    assert set(losses) == {
        'student.loss',
        'distill.loss_kd',
        'distill.loss_early',
        'agreement',
    }
    without = [n for n, p in model.named_parameters() if p.grad is None]
    assert without == []


def test_stage_one_is_finite_in_half_precision() -> None:
    model = build(**dearkd_config())
    data = batch()
    model.eval()
    expected = losses_of(model, *data)

    with torch.autocast('cpu', dtype=torch.bfloat16):
        losses = losses_of(model, *data)
    total(losses).backward()

    for name, loss in losses.items():
        torch.testing.assert_close(
            loss.float(), expected[name], rtol=0.05, atol=0.05
        )
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_stage_two_trains_both_heads_by_the_labels() -> None:
    model = build(**dearkd_config())
    inputs, samples = batch()

    model.distillation_stopped = True
    losses = losses_of(model, inputs, samples)
    total(losses).backward()

    assert set(losses) == {'student.loss', 'student.loss_dist_head'}
    without = [n for n, p in model.named_parameters() if p.grad is None]
    assert {n.split('.')[0] for n in without} == {'distiller'}
    assert all(p.grad is not None for p in model.student.parameters())
    model.distillation_stopped = False
    assert 'distill.loss_kd' in losses_of(model, inputs, samples)


def test_a_head_for_labels_stays_one_when_distillation_goes_on() -> None:
    cfg = dearkd_config()
    cfg['architecture']['head']['label_dist_head'] = True
    model = build(**cfg)

    model.distillation_stopped = True
    model.distillation_stopped = False

    assert 'student.loss_dist_head' in losses_of(model)


def test_processes_do_not_wait_for_what_stage_two_does_not_use() -> None:
    if distributed.is_initialized():
        pytest.skip('another process group exists')
    distributed.init_process_group(
        'gloo', store=distributed.HashStore(), rank=0, world_size=1
    )
    try:
        model = build(**dearkd_config())
        projection = model.distiller.distill_losses.loss_early.projection
        with torch.no_grad():
            projection.weight[0, 0] = torch.nan
        wrapped = DistributedDataParallel(model)
        model.distillation_stopped = True
        for _ in range(2):  # the second would wait
            loss = total(wrapped(*batch(), mode='loss'))
            loss.backward()
    finally:
        distributed.destroy_process_group()
    assert torch.isfinite(loss)
    assert not projection.weight.grad.any()
    assert 'find_unused_parameters' not in Config.fromfile(
        CONFIGS / 'methods' / 'dearkd_deit-ti.py'
    )


def test_in_a_process_of_its_own_stage_two_is_the_student_alone() -> None:
    model = build(**dearkd_config())
    model.distillation_stopped = True
    total(model(*batch(), mode='loss')).backward()
    assert all(p.grad is None for p in model.distiller.parameters())


def test_the_config_ends_stage_one_in_good_time() -> None:
    cfg = Config.fromfile(CONFIGS / 'methods' / 'dearkd_deit-ti.py')

    (hook,) = cfg.custom_hooks
    assert HOOKS.build(hook).stop_epoch < cfg.train_cfg.max_epochs


class Images(Dataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict:
        return dict(
            inputs=torch.full((3, 32, 32), index / 4),
            data_samples=DataSample().set_gt_label(index % CLASSES),
        )


def stages(folder: Path, epochs: int, resume: bool = False) -> list[set]:
    """Names of the losses of every iteration, two an epoch."""
    runner = Runner(
        model=algorithm_config(**dearkd_config()),
        work_dir=str(folder),
        train_dataloader=dict(
            batch_size=2,
            dataset=Images(),
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='default_collate'),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1)),
        custom_hooks=[dict(type='mmrazor.StopDistillHook', stop_epoch=1)],
        default_scope='mmpretrain',
        resume=resume,
        log_level='WARNING',
        experiment_name=f'{folder.name}_{resume}',
    )
    seen: list[set] = []
    parse = runner.model.parse_losses

    def watch(losses: dict) -> Any:
        names = set(losses) - {'agreement'}
        seen.append({name.split('.')[0] for name in names})
        return parse(losses)

    runner.model.parse_losses = watch
    runner.train()
    return seen


def test_the_hook_ends_stage_one_and_a_resumed_run_stays_in_two(
    tmp_path: Path,
) -> None:
    both, alone = {'student', 'distill'}, {'student'}

    assert stages(tmp_path, 2) == [both, both, alone, alone]
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_1.pth'))
    assert stages(tmp_path, 3, resume=True) == [alone] * 4
