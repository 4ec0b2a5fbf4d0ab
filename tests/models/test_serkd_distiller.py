# Copyright (c) The serkd_mm authors. All rights reserved.
"""Every record connected once, then let go."""

from __future__ import annotations

import functools
import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from mmengine.model import convert_sync_batchnorm
from mmengine.runner.activation_checkpointing import (
    turn_on_activation_checkpointing,
)
from mmrazor.models.architectures.connectors.base_connector import (
    BaseConnector,
)
from mmrazor.registry import MODELS
from torch import Tensor, nn

from serkd_mm.models.distillers import fixed_connectors

from .builders import (
    CLASSES,
    batch,
    build,
    cnn_config,
    cnn_distiller,
    distiller_config,
    losses_of,
    recorder,
    total,
)


class Counter:
    """Calls of modules, by name."""

    def __init__(self, modules: nn.ModuleDict) -> None:
        self.calls = dict.fromkeys(modules, 0)
        self.graded = dict.fromkeys(modules, False)
        for name, module in modules.items():
            module.register_forward_hook(self._hook(name))

    def _hook(self, name: str) -> Any:
        def count(*_: Any) -> None:
            self.calls[name] += 1
            self.graded[name] |= torch.is_grad_enabled()

        return count


class Scale(BaseConnector):
    """A connector with a parameter and two outputs."""

    def __init__(self, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self.factor = nn.Parameter(torch.ones(1))

    def forward_train(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        return feature * self.factor, feature * self.factor * 3


class Gap(nn.Module):
    """How far the means are apart."""

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        return (preds_S.mean() - preds_T.mean()).abs()


class Projected(nn.Module):
    """A loss with a product of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Linear(CLASSES, 3)

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        self.seen = self.projection(preds_S).dtype, preds_S.dtype
        return self.projection(preds_S).mean()


class Noted(nn.Module):
    """Keeps what it is given."""

    def forward(self, preds_S: Any, preds_T: Any) -> Tensor:
        self.given = preds_S, preds_T
        return torch.zeros(())


class Broken(nn.Module):
    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        raise FloatingPointError('broken loss')


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    classes = (Scale, Gap, Projected, Noted, Broken)
    for cls in classes:
        MODELS.register_module(name=f'Test{cls.__name__}', module=cls)
    yield
    for cls in classes:
        MODELS.module_dict.pop(f'Test{cls.__name__}')


def scaled_config(loss: str = 'TestGap', **kwargs: Any) -> dict:
    """One loss on logits; a connector with a parameter on either side."""
    cfg = distiller_config(losses=())
    cfg.update(
        connectors=dict(
            of_student=dict(type='TestScale'),
            of_teacher=dict(type='TestScale'),
        ),
        distill_losses=dict(loss_gap=dict(type=loss)),
        loss_forward_mappings=dict(
            loss_gap=dict(
                preds_S=dict(
                    recorder='logits',
                    from_student=True,
                    connector='of_student',
                    **kwargs,
                ),
                preds_T=dict(
                    recorder='logits',
                    from_student=False,
                    connector='of_teacher',
                    **kwargs,
                ),
            )
        ),
    )
    return cfg


def buffers(model: nn.Module) -> list[list]:
    distiller = model.distiller
    return [
        source.data_buffer
        for manager in (
            distiller.student_recorders,
            distiller.teacher_recorders,
        )
        for source in manager.recorders.values()
    ]


@contextmanager
def remembered(module: nn.Module) -> Iterator[list]:
    """Weak references to what a module returns."""
    seen: list = []
    handle = module.register_forward_hook(
        lambda _m, _a, output: seen.append(weakref.ref(output))
    )
    yield seen
    handle.remove()


# -- connectors -------------------------------------------------------------


def test_a_connector_runs_once_per_step_for_all_losses_together() -> None:
    model = build()
    counter = Counter(model.distiller.connectors)
    # Distance and angle losses both read the superpixels.
    losses_of(model)

    assert counter.calls == {
        'student_tokens': 1,
        'teacher_tokens': 1,
        'student_superpixels': 1,
        'teacher_superpixels': 1,
    }

    losses_of(model)

    assert set(counter.calls.values()) == {2}


def test_connectors_of_teacher_records_run_without_gradient() -> None:
    model = build()
    counter = Counter(model.distiller.connectors)

    losses_of(model)

    assert counter.graded == {
        'student_tokens': True,
        'teacher_tokens': False,
        'student_superpixels': True,
        'teacher_superpixels': False,
    }


def test_no_connector_runs_with_gradient_where_there_is_none() -> None:
    model = build()
    counter = Counter(model.distiller.connectors)

    with torch.no_grad():
        losses_of(model)

    assert not any(counter.graded.values())


def test_connectors_of_teacher_records_keep_their_parameters() -> None:
    model = build(distiller=scaled_config(connector_idx=0))
    connectors = model.distiller.connectors

    total(losses_of(model)).backward()

    assert not connectors['of_teacher'].factor.requires_grad
    assert connectors['of_teacher'].factor.grad is None
    assert connectors['of_student'].factor.requires_grad
    assert float(connectors['of_student'].factor.grad) != 0


def test_a_connector_of_both_sides_is_trained_by_the_student() -> None:
    cfg = scaled_config(connector_idx=0)
    mapping = cfg['loss_forward_mappings']['loss_gap']
    mapping['preds_T']['connector'] = 'of_student'
    model = build(distiller=cfg)
    counter = Counter(model.distiller.connectors)

    total(losses_of(model)).backward()

    assert counter.calls['of_student'] == 2
    assert model.distiller.connectors['of_student'].factor.grad is not None


def test_an_item_of_a_connectors_output_can_be_chosen() -> None:
    first = build(distiller=scaled_config(connector_idx=0))
    second = build(distiller=scaled_config(connector_idx=1))
    second.student.load_state_dict(first.student.state_dict())
    second.teacher.load_state_dict(first.teacher.state_dict())
    data = batch()

    gap = losses_of(first, *data)['distill.loss_gap']
    larger = losses_of(second, *data)['distill.loss_gap']

    assert gap > 0
    torch.testing.assert_close(larger, 3 * gap)


def test_two_losses_may_read_different_items_of_one_connection() -> None:
    cfg = scaled_config(connector_idx=0)
    cfg['distill_losses']['loss_other'] = dict(type='TestGap')
    other = scaled_config(connector_idx=1)['loss_forward_mappings']
    cfg['loss_forward_mappings']['loss_other'] = other['loss_gap']
    model = build(distiller=cfg)
    counter = Counter(model.distiller.connectors)

    losses = losses_of(model)

    assert counter.calls == {'of_student': 1, 'of_teacher': 1}
    torch.testing.assert_close(
        losses['distill.loss_other'], 3 * losses['distill.loss_gap']
    )


def test_nothing_connected_leaks_into_the_next_step() -> None:
    model = build().eval()
    one, other = batch(), batch()

    first = losses_of(model, *one)
    second = losses_of(model, *other)
    again = losses_of(model, *one)

    for name, value in first.items():
        assert torch.equal(again[name], value), name
        if name != 'agreement':
            assert not torch.equal(second[name], value), name


def test_a_record_looked_up_between_steps_is_not_kept() -> None:
    model = build()
    distiller = model.distiller
    record = dict(
        recorder='tokens', from_student=True, connector='student_tokens'
    )
    counter = Counter(distiller.connectors)
    inputs, _ = batch()
    looked_up = []
    for scale in (1, 2):
        with distiller.student_recorders:
            model.student(scale * inputs)
        looked_up.append(distiller.get_record(**record).tokens)

    assert counter.calls['student_tokens'] == 2
    assert not torch.equal(*looked_up)


# -- records ----------------------------------------------------------------


def test_records_are_released_after_the_losses() -> None:
    model = build()
    student, teacher = model.student.backbone, model.teacher.backbone

    with remembered(student.ln1) as ours, remembered(teacher.ln1) as theirs:
        losses = losses_of(model)
    gc.collect()
    # The graph of the losses still needs the student's.
    assert ours[0]() is not None
    assert theirs[0]() is None
    total(losses).backward()
    del losses
    gc.collect()

    assert buffers(model) == [[], [], [], []]
    assert ours[0]() is None


def test_records_are_released_when_a_loss_raises() -> None:
    model = build(
        distiller=scaled_config('TestBroken', connector_idx=0), input_size=0
    )

    for _ in range(2):
        with pytest.raises(FloatingPointError, match='broken loss'):
            losses_of(model)
        assert buffers(model) == [[], [], [], []]
        assert model.distiller._connected is None


def test_a_step_after_one_that_raised_is_like_any_other() -> None:
    model = build().eval()
    data = batch()
    expected = losses_of(model, *data)
    projection = model.distiller.distill_losses['loss_feature'].projection
    handle = projection.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        losses_of(model, *batch())
    handle.remove()

    torch.testing.assert_close(
        losses_of(model, *data), expected, rtol=0, atol=0
    )


# -- precision --------------------------------------------------------------


def of_logits(**loss: Any) -> nn.Module:
    cfg = distiller_config(losses=('loss_kd',))
    cfg['distill_losses']['loss_kd'] = loss
    if loss['type'] == 'DISTLoss':
        mapping = cfg['loss_forward_mappings']['loss_kd']
        for side in 'ST':
            mapping[f'logits_{side}'] = mapping.pop(f'preds_{side}')
    return build(distiller=cfg, input_size=0).distiller


def record(distiller: nn.Module, student: Tensor, teacher: Tensor) -> None:
    for manager, logits in (
        (distiller.student_recorders, student),
        (distiller.teacher_recorders, teacher),
    ):
        manager.get_recorder('logits').data_buffer.append(logits)


@pytest.mark.parametrize('autocast', [True, False])
@pytest.mark.parametrize(
    'loss',
    [dict(type='KLDivergence', tau=4.0), dict(type='DISTLoss')],
    ids=lambda loss: loss['type'],
)
def test_losses_of_mmrazor_keep_their_digits_in_half_precision(
    loss: dict, autocast: bool
) -> None:
    """On CPUs autocast leaves a softmax of bfloat16 logits in bfloat16."""
    teacher = torch.randn(16, 1000).bfloat16()
    student = (teacher + 0.1 * torch.randn(16, 1000)).bfloat16()
    distiller = of_logits(**loss)

    def found(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        preds = student.to(dtype).requires_grad_()
        record(distiller, preds, teacher.to(dtype))
        half = autocast and dtype == torch.bfloat16
        with torch.autocast('cpu', torch.bfloat16, enabled=half):
            value = distiller.compute_distill_losses()['loss_kd']
        (gradient,) = torch.autograd.grad(value, preds)
        return value, gradient

    value, gradient = found(torch.bfloat16)
    exact, slope = found(torch.float64)

    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), exact, rtol=1e-3, atol=0)
    # The gradient comes back in the precision of the logits.
    error = torch.linalg.vector_norm(gradient.double() - slope)
    assert error < 0.01 * torch.linalg.vector_norm(slope)


def test_a_loss_with_parameters_multiplies_in_half_precision() -> None:
    distiller = of_logits(type='TestProjected')
    loss = distiller.distill_losses['loss_kd']
    logits = torch.randn(4, CLASSES)
    record(distiller, logits, logits)
    with torch.autocast('cpu', torch.bfloat16):
        distiller.compute_distill_losses()
    assert loss.seen == (torch.bfloat16, torch.float32)


@pytest.mark.parametrize(
    'given', [torch.arange(3), (torch.ones(3), None)], ids=['labels', 'tuple']
)
def test_what_has_no_precision_reaches_a_loss_as_it_is(given: Any) -> None:
    distiller = of_logits(type='TestNoted')
    record(distiller, given, given)

    distiller.compute_distill_losses()

    student, teacher = distiller.distill_losses['loss_kd'].given
    assert student is teacher is given


def test_losses_of_this_package_see_what_was_rounded() -> None:
    """Among half tokens other pairs coincide than in float32."""
    seen = []
    cfg = distiller_config(losses=('loss_angle',))
    distiller = build(distiller=cfg, input_size=0).distiller
    for mapping in distiller.loss_forward_mappings['loss_angle'].values():
        mapping.update(connector=None, recorder='logits')
    distiller.distill_losses['loss_angle'].register_forward_pre_hook(
        lambda _m, _a, kwargs: seen.append(kwargs['preds_S'].dtype),
        with_kwargs=True,
    )
    tokens = torch.randn(2, 9, 8).bfloat16()
    record(distiller, tokens, tokens)
    distiller.compute_distill_losses()
    assert seen == [torch.bfloat16]


# -- mistakes in the config -------------------------------------------------


def test_an_error_says_which_loss_and_which_connector_it_is_of() -> None:
    cfg = distiller_config(losses=('loss_distance', 'loss_angle'))
    for side in ('student', 'teacher'):
        cfg['connectors'][f'{side}_superpixels'][1]['grid_size'] = 4
    with pytest.raises(ValueError, match="^loss 'loss_distance': TokenD"):
        build(distiller=cfg)

    cfg['connectors']['student_superpixels'].insert(
        1, dict(type='FeatureMapTokenizer', stride=3)
    )
    with pytest.raises(
        ValueError,
        match="^connector 'student_superpixels' of student recorder 'tokens' "
        r"\(source 'backbone.ln1'\): stride \(3, 3\) does not",
    ):
        build(distiller=cfg)


@pytest.mark.parametrize('side', ['student', 'teacher'])
def test_an_unknown_source_names_the_nearest_modules(side: str) -> None:
    cfg = distiller_config()
    cfg[f'{side}_recorders']['tokens'] = recorder('backbone.ln2')

    with pytest.raises(ValueError, match="'backbone.ln2'") as error:
        build(distiller=cfg)

    text = str(error.value)
    assert f'of {side} recorder ' in text
    assert f'no module of the {side} (ImageClassifier)' in text
    assert 'backbone.ln1' in text.split('nearest names:')[1]
    assert f'distiller.{side}_recorders.tokens.source' in text


@pytest.mark.parametrize('side', ['student', 'teacher'])
def test_a_recorder_that_never_fires_is_named(side: str) -> None:
    cfg = distiller_config(losses=('loss_kd',))
    model = build(distiller=cfg)
    # The module exists, but the forward goes around it.
    head = getattr(model, side).head
    name = 'head_dist' if side == 'student' else 'head'
    layer = getattr(head.layers, name)
    setattr(head.layers, name, _Around(layer))

    with pytest.raises(RuntimeError, match='recorded 0 outputs') as error:
        losses_of(model)

    text = str(error.value)
    assert f"{side} recorder 'logits'" in text
    assert f"'head.layers.{name}'" in text
    assert f'{side}_recorders' in text


class _Around(nn.Module):
    """Computes what a module would without calling it."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.layer.weight.T + self.layer.bias


def test_a_record_beyond_those_made_is_named() -> None:
    cfg = distiller_config(losses=('loss_kd',))
    mapping = cfg['loss_forward_mappings']['loss_kd']
    mapping['preds_T']['record_idx'] = 1

    with pytest.raises(RuntimeError, match='record_idx=1 needs 2') as error:
        build(distiller=cfg)
    assert 'recorded 1 outputs' in str(error.value)


@pytest.mark.parametrize(
    ('source', 'data_idx', 'message'),
    [
        ('backbone', 1, 'recorded 1 items, data_idx=1 needs 2; let the back'),
        ('backbone.ln1', 0, 'recorded one Tensor, of which data_idx=0'),
    ],
)
def test_a_stage_that_the_backbone_does_not_output_is_named(
    source: str, data_idx: int, message: str
) -> None:
    cfg = distiller_config(losses=('loss_feature',))
    cfg['teacher_recorders']['tokens'] = recorder(source)
    mapping = cfg['loss_forward_mappings']['loss_feature']
    mapping['preds_T']['data_idx'] = data_idx

    with pytest.raises(ValueError, match=message) as error:
        build(distiller=cfg)
    assert f"teacher recorder 'tokens' (source '{source}')" in str(error.value)


class _InPlace(nn.Module):
    """A block that adds to what it gets, as some write a residual."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        x += self.block(x.clone())
        return x


@pytest.mark.parametrize('side', ['student', 'teacher'])
def test_a_record_that_was_changed_in_place_is_refused(side: str) -> None:
    distiller = distiller_config()
    distiller[f'{side}_recorders']['tokens']['source'] = 'backbone.layers.0'
    model = build(distiller=distiller)
    losses_of(model)

    layers = getattr(model, side).backbone.layers
    layers[1] = _InPlace(layers[1])
    with pytest.raises(
        RuntimeError,
        match=rf"^{side} recorder 'tokens' \(source 'backbone.layers.0'\) "
        'recorded a tensor .*changed in place .*record the module around it',
    ):
        losses_of(model)

    layers[1] = nn.Identity()
    losses_of(model)


def test_of_a_tuple_the_item_that_is_asked_for_counts() -> None:
    model = build()
    source = model.distiller.student_recorders.get_recorder('tokens')
    noted = model.distiller._versions._noted[source]
    record = (torch.zeros(2, 3), torch.zeros(2, 3))
    source.data_buffer.append(record)
    noted.append([0, 0])
    record[1].add_(1)

    get = functools.partial(
        model.distiller.get_record, recorder='tokens', from_student=True
    )
    assert get(data_idx=0) is record[0]
    for item in (1, -1, None):
        with pytest.raises(RuntimeError, match='changed in place'):
            get(data_idx=item)


def test_a_module_that_is_exchanged_is_recorded_too() -> None:
    """As ``sync_bn`` exchanges batch norm after the algorithm was built."""
    distiller = cnn_distiller(stride=2)
    distiller['student_recorders']['tokens']['source'] = 'backbone.bn1'
    distiller['teacher_recorders']['tokens']['source'] = 'backbone.bn1'
    model = build(
        architecture=cnn_config(), teacher=cnn_config(), distiller=distiller
    )
    inputs, samples = batch()
    expected = losses_of(model, inputs, samples)
    before = model.student.backbone.bn1

    convert_sync_batchnorm(model)
    model.train().train()  # as every epoch begins

    after = model.student.backbone.bn1
    assert after is not before
    assert len(after._forward_hooks) == len(before._forward_hooks)
    actual = losses_of(model, inputs, samples)
    assert actual.keys() == expected.keys()
    for name in actual:
        torch.testing.assert_close(actual[name], expected[name])


def test_a_connector_of_the_teacher_alone_is_a_fixed_function(
    logged: Callable,
) -> None:
    """What an image is to learn depends on no other one of its batch."""
    distiller = cnn_distiller(stride=1)
    for side in ('student', 'teacher'):
        distiller['connectors'][f'{side}_superpixels'] = dict(
            type='ConvModuleConnector',
            in_channel=64,
            out_channel=8,
            kernel_size=1,
            norm_cfg=dict(type='BN'),
        )
    mapping = distiller['loss_forward_mappings']['loss_distance']
    distiller['loss_forward_mappings'] = dict(
        loss_distance=dict(
            s_feature=mapping['preds_S'], t_feature=mapping['preds_T']
        )
    )
    distiller['distill_losses']['loss_distance'] = dict(type='L2Loss')
    # Without training, as in the dry run, it may lack statistics: weights
    # are loaded later.
    model = build(
        architecture=cnn_config(),
        teacher=cnn_config(),
        distiller=distiller,
        input_size=32,
    )
    connectors = model.distiller.connectors
    norms = {
        side: connectors[f'{side}_superpixels'].conv_module.bn
        for side in ('student', 'teacher')
    }
    # Which normalises nothing before it has seen a batch.
    with pytest.raises(
        ValueError,
        match=r"^connector 'teacher_superpixels' \(ConvModuleConnector\) .*"
        r'BatchNorm2d has seen no batch.*track_running_stats=False.*'
        r"init_cfg.*type='ConfigurableDistiller'",
    ):
        losses_of(model)
    norms['teacher'].num_batches_tracked += 1  # as if it were loaded
    said = logged(fixed_connectors)

    losses_of(model)
    losses_of(model)

    assert norms['student'].num_batches_tracked == 2
    assert norms['teacher'].num_batches_tracked == 1
    assert not norms['teacher'].training
    assert norms['student'].training
    assert len(said) == 1
    assert 'keeps the parameters' in said[0]


def test_a_norm_by_each_batch_needs_no_statistics() -> None:
    """MMRazor's connector then does in eval mode what it does in training."""
    distiller = cnn_distiller(stride=1)
    for side in ('student', 'teacher'):
        distiller['connectors'][f'{side}_superpixels'].insert(
            0,
            dict(
                type='NormConnector',
                in_channels=64,
                norm_cfg=dict(
                    type='BN', affine=False, track_running_stats=False
                ),
            ),
        )
    model = build(
        architecture=cnn_config(), teacher=cnn_config(), distiller=distiller
    )

    assert torch.isfinite(losses_of(model)['distill.loss_distance'])


def test_an_unknown_recorder_names_the_nearest_one() -> None:
    distiller = distiller_config()
    distiller['student_recorders']['tokens']['type'] = 'ModuleOutput'
    with pytest.raises(
        ValueError,
        match=r"^student_recorders\.tokens\.type 'ModuleOutput' is no "
        "recorder of MMRazor; did you mean 'ModuleOutputs'",
    ):
        build(distiller=distiller)


def test_labels_are_not_recorded_from_the_teacher() -> None:
    distiller = distiller_config(losses=('loss_kd',))
    distiller['distill_losses']['loss_kd'] = dict(type='DKDLoss')
    distiller['teacher_recorders']['labels'] = dict(
        type='ModuleInputs', source='head.loss_module'
    )
    distiller['loss_forward_mappings']['loss_kd']['gt_labels'] = dict(
        recorder='labels', from_student=False, data_idx=1
    )
    with pytest.raises(
        RuntimeError, match='the teacher runs no loss here, so take labels'
    ):
        build(distiller=distiller)


def test_an_item_that_a_connector_does_not_give_is_named() -> None:
    distiller = distiller_config(losses=('loss_feature',))
    mapping = distiller['loss_forward_mappings']['loss_feature']
    mapping['preds_S']['connector_idx'] = 9
    with pytest.raises(
        ValueError,
        match="connector 'student_tokens' gave 2 items, connector_idx=9",
    ):
        build(distiller=distiller)


def test_an_item_of_a_tensor_is_no_image_of_the_batch() -> None:
    distiller = distiller_config(losses=('loss_distance',))
    mapping = distiller['loss_forward_mappings']['loss_distance']
    mapping['preds_S']['connector_idx'] = 0
    with pytest.raises(
        ValueError,
        match="'student_superpixels' gave one Tensor, of which connector_idx",
    ):
        build(distiller=distiller)


@pytest.mark.parametrize(
    ('key', 'index', 'said'),
    [
        ('record_idx', -2, 'recorded 1 outputs .*_idx=-2 needs 2'),
        ('data_idx', -3, 'recorded 1 items, data_idx=-3 needs 3'),
    ],
)
def test_an_index_from_the_end_that_is_not_there_is_named(
    key: str, index: int, said: str
) -> None:
    distiller = distiller_config(losses=('loss_kd',))
    mapping = distiller['loss_forward_mappings']['loss_kd']
    if key == 'data_idx':
        distiller['student_recorders']['logits']['source'] = 'backbone'
    mapping['preds_S'][key] = index
    with pytest.raises((RuntimeError, ValueError), match=said):
        build(distiller=distiller)


def test_a_network_itself_is_a_source() -> None:
    """As in MMRazor's config of CRD, whose loss takes data samples."""
    distiller = scaled_config()
    distiller['student_recorders']['samples'] = dict(
        type='ModuleInputs', source=''
    )
    model = build(distiller=distiller, input_size=0).eval()
    seen = []
    model.distiller.distill_losses['loss_gap'].register_forward_pre_hook(
        lambda *_: seen.extend(
            model.distiller.get_record('samples', True, data_idx=1)
        )
    )
    mapping = model.distiller.loss_forward_mappings['loss_gap']
    for argument in mapping.values():
        argument['connector_idx'] = 0
    inputs, samples = batch()
    losses_of(model, inputs, samples)
    assert seen == samples


def test_a_loss_without_mapping_is_refused() -> None:
    cfg = distiller_config()
    del cfg['loss_forward_mappings']['loss_angle']

    with pytest.raises(ValueError, match='loss_angle') as error:
        build(distiller=cfg)
    assert 'loss_forward_mappings' in str(error.value)


# -- deliveries -------------------------------------------------------------


class Noise:
    """Draws from the global generator, another number at every call."""

    @staticmethod
    def draw() -> Tensor:
        return torch.rand(1)


def test_deliveries_hand_the_teachers_random_draw_to_the_student() -> None:
    cfg = distiller_config(
        losses=('loss_kd',),
        distill_deliveries=dict(
            draw=dict(
                type='MethodOutputs',
                max_keep_data=1,
                method_path=f'{__name__}.Noise.draw',
            )
        ),
    )
    model = build(distiller=cfg)
    drawn: dict[str, list[Tensor]] = {'student': [], 'teacher': []}
    for side, seen in drawn.items():
        getattr(model, side).backbone.register_forward_pre_hook(
            lambda _m, _a, seen=seen: seen.append(Noise.draw())
        )

    for _ in range(2):
        losses_of(model)

    assert torch.equal(drawn['student'][0], drawn['teacher'][0])
    assert torch.equal(drawn['student'][1], drawn['teacher'][1])
    assert not torch.equal(drawn['teacher'][0], drawn['teacher'][1])


# -- activation checkpointing -----------------------------------------------


def checkpointed(source: str) -> nn.Module:
    """A student whose first layer computes its activations again."""
    distiller = distiller_config(losses=('loss_feature',))
    distiller['student_recorders']['tokens'] = recorder(source)
    model = build(distiller=distiller)
    name = 'architecture.backbone.layers.0'
    turn_on_activation_checkpointing(model, [name])
    return model


def test_a_record_that_would_train_nothing_is_refused() -> None:
    model = checkpointed('backbone.layers.0.attn')
    with pytest.raises(
        RuntimeError,
        match=r"'tokens' would record 'backbone\.layers\.0\.attn' without .*"
        'record the module that is checkpointed',
    ):
        losses_of(model, *batch())
    with torch.no_grad():
        losses_of(model, *batch())


def test_a_module_that_is_checkpointed_is_recorded_with_its_gradient() -> None:
    model = checkpointed('backbone.layers.0')
    losses_of(model, *batch())['distill.loss_feature'].backward()
    weight = model.student.backbone.layers[0].attn.qkv.weight
    assert weight.grad.any()
