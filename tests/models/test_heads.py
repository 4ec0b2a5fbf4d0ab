# Copyright (c) The serkd_mm authors. All rights reserved.
"""Who trains which of the two heads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mmpretrain.models.heads import DeiTClsHead
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor

from serkd_mm.models import DeiTDistillHead

from .builders import batch, build, distiller_config, losses_of, total


def head(**settings: Any) -> DeiTDistillHead:
    cfg = dict(
        type='DeiTDistillHead',
        num_classes=4,
        in_channels=6,
        init_cfg=dict(type='Normal', layer='Linear', std=1.0),
    )
    built = MODELS.build({**cfg, **settings})
    built.init_weights()
    return built


def feats(size: int = 3) -> tuple[list[Tensor]]:
    tokens = [torch.randn(size, 6, requires_grad=True) for _ in range(2)]
    return (tokens,)


def hard() -> tuple[list[DataSample], Tensor]:
    target = torch.tensor([0, 3, 1])
    return [DataSample().set_gt_label(int(t)) for t in target], target


def soft() -> tuple[list[DataSample], Tensor]:
    target = torch.rand(3, 4).softmax(1)
    return [DataSample().set_gt_score(t) for t in target], target


@pytest.mark.parametrize('labels', [hard, soft], ids=['hard', 'soft'])
def test_labels_train_the_class_head_alone(labels: Any) -> None:
    module, tokens = head(), feats()
    samples, target = labels()

    losses = module.loss(tokens, samples)
    losses['loss'].backward()

    assert set(losses) == {'loss'}
    expected = F.cross_entropy(module.layers.head(tokens[0][0]), target)
    torch.testing.assert_close(losses['loss'], expected)
    assert module.layers.head.weight.grad.abs().sum() > 0
    assert module.layers.head_dist.weight.grad is None
    assert tokens[0][0].grad.abs().sum() > 0
    assert tokens[0][1].grad is None


@pytest.mark.parametrize('labels', [hard, soft], ids=['hard', 'soft'])
def test_labels_train_the_distillation_head_where_asked_to(
    labels: Any,
) -> None:
    module, (tokens,) = head(label_dist_head=True), feats()
    samples, target = labels()

    losses = module.loss((tokens,), samples)

    assert set(losses) == {'loss', 'loss_dist_head'}
    for name, layer, token in (
        ('loss', module.layers.head, tokens[0]),
        ('loss_dist_head', module.layers.head_dist, tokens[1]),
    ):
        expected = F.cross_entropy(layer(token), target)
        torch.testing.assert_close(losses[name], expected)
    each = module.loss((tokens,), samples, reduction_override='none')
    assert {name: len(loss) for name, loss in each.items()} == dict(
        loss=3, loss_dist_head=3
    )
    sum(losses.values()).backward()
    assert module.layers.head_dist.weight.grad.abs().sum() > 0


def test_the_loss_module_of_the_config_is_used() -> None:
    smooth = dict(
        type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'
    )
    module, tokens = head(loss=smooth), feats()
    samples, target = hard()

    loss = module.loss(tokens, samples)['loss']

    expected = F.cross_entropy(
        module.layers.head(tokens[0][0]), target, label_smoothing=0.1
    )
    torch.testing.assert_close(loss, expected)


def test_accuracy_is_that_of_the_class_head() -> None:
    module, tokens = head(cal_acc=True), feats()
    samples, target = hard()

    losses = module.loss(tokens, samples)

    right = module.layers.head(tokens[0][0]).argmax(1) == target
    expected = 100 * float(right.float().mean())
    (accuracy,) = losses['accuracy_top-1']
    assert float(accuracy) == pytest.approx(expected)


@pytest.mark.parametrize('training', [True, False])
def test_predictions_average_the_logits_of_both_heads(training: bool) -> None:
    module, tokens = head().train(training), feats()
    class_token, dist_token = tokens[0]
    expected = (
        module.layers.head(class_token) + module.layers.head_dist(dist_token)
    ) / 2

    torch.testing.assert_close(module(tokens), expected)
    predicted = module.predict(tokens)

    scores = torch.stack([sample.pred_score for sample in predicted])
    torch.testing.assert_close(scores, expected.softmax(1))


def test_training_says_nothing_about_a_distilled_model(
    recwarn: pytest.WarningsRecorder,
) -> None:
    module = head().train()

    module.loss(feats(), hard()[0])
    module(feats())

    assert not [w for w in recwarn if 'cannot train' in str(w.message)]


@pytest.mark.parametrize('hidden_dim', [None, 5])
def test_checkpoints_are_those_of_the_hosts_head(
    hidden_dim: int | None,
) -> None:
    theirs = DeiTClsHead(num_classes=4, in_channels=6, hidden_dim=hidden_dim)
    ours = head(hidden_dim=hidden_dim)
    tokens = feats()

    theirs.load_state_dict(ours.state_dict(), strict=True)

    assert list(theirs.state_dict()) == list(ours.state_dict())
    torch.testing.assert_close(theirs.eval()(tokens), ours.eval()(tokens))


def test_the_recorder_sees_the_logits_of_the_distillation_head() -> None:
    model = build(distiller=distiller_config(losses=('loss_kd',)))
    logits: list[Tensor] = []
    seen: list[Tensor] = []
    model.student.head.layers.head_dist.register_forward_hook(
        lambda _m, _a, output: logits.append(output)
    )
    kd = model.distiller.distill_losses['loss_kd']
    kd.register_forward_pre_hook(
        lambda _m, _a, kwargs: seen.append(kwargs['preds_S']), with_kwargs=True
    )

    losses_of(model)

    assert len(logits) == 1
    assert seen[0] is logits[0]


def test_distillation_alone_trains_the_distillation_head() -> None:
    model = build(distiller=distiller_config(losses=('loss_kd',)))
    layers = model.student.head.layers
    losses = losses_of(model, *batch())

    losses['distill.loss_kd'].backward(retain_graph=True)
    assert layers.head_dist.weight.grad.abs().sum() > 0
    assert layers.head.weight.grad is None
    by_teacher = layers.head_dist.weight.grad.clone()
    losses['student.loss'].backward()

    assert torch.equal(layers.head_dist.weight.grad, by_teacher)
    assert layers.head.weight.grad.abs().sum() > 0
    assert torch.isfinite(total(losses))


def test_a_backbone_without_distillation_token_is_named() -> None:
    head = MODELS.build(
        dict(type='DeiTDistillHead', num_classes=3, in_channels=8)
    )
    with pytest.raises(TypeError, match='DistilledVisionTransformer'):
        head((torch.randn(2, 8),))
