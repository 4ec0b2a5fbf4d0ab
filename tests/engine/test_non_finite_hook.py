# Copyright (c) The serkd_mm authors. All rights reserved.
"""A loss or gradient that is not finite stops training or costs one update,
and what led to it can be computed again."""

from __future__ import annotations

import copy
import functools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.optim.optimizer import amp_optimizer_wrapper
from mmengine.runner import Runner
from mmrazor.registry import MODELS
from torch import Tensor, nn

from serkd_mm.engine import replay
from serkd_mm.engine.config_errors import config_errors
from serkd_mm.engine.hooks import non_finite_hook
from serkd_mm.models import CSKDLoss
from tests.engine.runners import images, loader, make_runner
from tests.models.builders import (
    EvalCache,
    algorithm_config,
    build,
    cnn_config,
    distiller_config,
    student_config,
    vit_config,
)

BATCH = 4
NAN = float('nan')


@MODELS.register_module()
class Trap(nn.Module):
    """A loss of the student's logits that fails for images of zeros.

    Args:
        kind: ``'gradient'`` for value 0 with gradient NaN, ``'value'`` for
            value NaN with gradient 0, ``'huge'`` for value 0 with a gradient
            whose square float32 does not hold.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        caught = (preds_T == preds_T[:1]).all()
        if self.kind == 'value':
            return preds_S.sum() * 0 + preds_S.new_tensor(NAN).where(
                caught, preds_S.new_zeros(())
            )
        if self.kind == 'huge':
            return (preds_S - preds_S.detach()).sum() * (caught * 1e25)
        return (preds_S.sum() * 0 + (~caught)).sqrt() * 1e-3


def trapped(kind: str, **overrides: Any) -> dict:
    """Config of an algorithm whose extra loss springs for equal images."""
    distiller = distiller_config(losses=('loss_kd', 'loss_angle'))
    distiller['distill_losses']['loss_trap'] = dict(type='Trap', kind=kind)
    mappings = distiller['loss_forward_mappings']
    mappings['loss_trap'] = mappings['loss_kd']
    return algorithm_config(distiller=distiller, **overrides)


def batches(count: int, bad: tuple[int, ...] = (), value: float = NAN) -> list:
    """Samples of ``count`` batches, some of which hold one value only."""
    samples = images(BATCH * count)
    for index in bad:
        for sample in samples[BATCH * index : BATCH * (index + 1)]:
            sample['inputs'] = torch.full((3, 32, 32), value)
    return samples


def without(samples: list, *indices: int) -> list:
    gone = {BATCH * index + i for index in indices for i in range(BATCH)}
    return [s for i, s in enumerate(samples) if i not in gone]


class Watch(Hook):
    """Keeps what the hooks after the tested one get to see."""

    def __init__(self) -> None:
        self.outputs: list[dict] = []

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        self.outputs.append({k: float(v) for k, v in (outputs or {}).items()})


def run(
    folder: Path,
    model: nn.Module | dict,
    samples: list,
    hook: dict | None = None,
    **overrides: Any,
) -> Runner:
    hooks = [Watch()]
    if hook is not None:
        hooks.append(dict(type='NonFiniteHook', **hook))
    settings = dict(train_dataloader=loader(samples), custom_hooks=hooks)
    runner = make_runner(folder, model, **{**settings, **overrides})
    runner.train()
    return runner


def state(runner: Runner) -> dict[str, Any]:
    """Model, its buffers included, and optimizer."""
    model = runner.model.state_dict()
    optimizer = runner.optim_wrapper.optimizer.state_dict()['state']
    return copy.deepcopy(dict(model=dict(model), optimizer=optimizer))


def assert_equal(actual: Runner, expected: Runner) -> None:
    torch.testing.assert_close(state(actual), state(expected), rtol=0, atol=0)


# -- stop -------------------------------------------------------------------


def test_a_nan_loss_stops_before_the_update_and_says_where(
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    model = build()
    untouched = run(tmp_path / 'a', copy.deepcopy(model), batches(2))

    with pytest.raises(FloatingPointError) as error:
        run(tmp_path / 'b', model, batches(4, bad=(2,)), dict(action='stop'))

    text = str(error.value)
    assert 'in iteration 3 (epoch 1): rank 0: losses ' in text
    for name in ('student.loss', 'distill.loss_angle', 'loss'):
        assert f'{name}=nan' in text
    names = ', '.join(f'images/{i}.png' for i in range(8, 12))
    assert f'images {names};' in text
    assert '\n' not in text
    torch.testing.assert_close(
        dict(model.state_dict()),
        dict(untouched.model.state_dict()),
        rtol=0,
        atol=0,
    )


def test_stopping_is_what_happens_unasked(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError):
        run(tmp_path, build(), batches(2, bad=(1,)), dict())


@pytest.mark.parametrize('kind', ['gradient', 'value'])
def test_value_and_gradient_are_both_looked_at(
    kind: str, tmp_path: Path
) -> None:
    model = MODELS.build(trapped(kind))
    model.init_weights()
    untouched = run(tmp_path / 'a', copy.deepcopy(model), batches(1))

    with pytest.raises(FloatingPointError, match='iteration 2 ') as error:
        run(tmp_path / 'b', model, batches(3, bad=(1,), value=0.0), dict())

    assert ('loss_trap=nan' in str(error.value)) == (kind == 'value')
    named = 'gradients not finite of architecture.backbone.cls_token, '
    assert (named in str(error.value)) == (kind == 'gradient')
    torch.testing.assert_close(
        dict(model.state_dict()),
        dict(untouched.model.state_dict()),
        rtol=0,
        atol=0,
    )


@pytest.mark.parametrize('clip', [None, dict(max_norm=5.0)])
def test_gradients_too_long_to_be_clipped_are_not_finite(
    clip: dict | None, tmp_path: Path
) -> None:
    model = MODELS.build(trapped('huge'))
    model.init_weights()
    wrapper = dict(optimizer=dict(type='SGD', lr=0.1), clip_grad=clip)

    with pytest.raises(FloatingPointError, match='iteration 2 ') as error:
        run(
            tmp_path,
            model,
            batches(3, bad=(1,), value=0.0),
            dict(),
            optim_wrapper=wrapper,
        )

    # Clipping has made zeros of all gradients by then.
    clipped = 'norm of the gradients before clipping inf' in str(error.value)
    assert clipped == (clip is not None)


def test_no_key_of_the_config_is_blamed(tmp_path: Path) -> None:
    cfg = Config(dict(model=algorithm_config()))

    with pytest.raises(FloatingPointError) as error, config_errors(cfg):
        run(tmp_path, copy.deepcopy(cfg.model), batches(1, bad=(0,)), dict())

    assert str(error.value).endswith(
        "default_hooks.non_finite.action='skip' would leave such updates out"
    )


def test_long_lists_of_names_are_counted(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError) as error:
        run(
            tmp_path,
            build(),
            batches(3, bad=(0,)),
            dict(),
            train_dataloader=loader(batches(3, bad=(0,)), batch_size=12),
        )

    assert 'images/7.png, ... (12 in all);' in str(error.value)


# -- the dump ---------------------------------------------------------------

STOCHASTIC = dict(
    architecture=student_config(
        train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8)])
    ),
    data_preprocessor=dict(
        type='ClsDataPreprocessor',
        num_classes=5,
        mean=[120.0] * 3,
        std=[60.0] * 3,
    ),
)
STOCHASTIC['architecture']['backbone'].update(
    drop_rate=0.3, drop_path_rate=0.3
)


class SameLosses(Hook):
    """Keeps the losses of every forward, the last of which is dumped.

    Like other hooks, it draws random numbers before an iteration.
    """

    def before_train_iter(self, runner: Runner, **_: Any) -> None:
        torch.rand(runner.iter + 1)

    def before_train(self, runner: Runner) -> None:
        self.losses: dict[str, float] = {}
        model = runner.model

        def keep(module: Any, args: Any, output: dict) -> None:
            values = model.parse_losses(output)[1].items()
            self.losses = {name: float(value) for name, value in values}

        model.register_forward_hook(keep)


def dumped(folder: Path, **overrides: Any) -> tuple[Path, dict[str, float]]:
    """Train until the trap springs in iteration 3."""
    hook = SameLosses()
    model = trapped('gradient', **STOCHASTIC)
    settings = dict(
        model=model,
        train_dataloader=loader(batches(4, bad=(2,), value=0.0)),
        custom_hooks=[hook, dict(type='NonFiniteHook')],
        cfg=dict(model=model, default_scope='mmpretrain'),
    )
    with pytest.raises(FloatingPointError) as error:
        make_runner(folder, **{**settings, **overrides}).train()
    (path,) = folder.glob('non_finite/*')
    assert f'serkd_mm.engine.replay({str(path)!r})' in str(error.value)
    return path, hook.losses


def test_the_dump_gives_the_same_losses_and_gradients_again(
    tmp_path: Path,
) -> None:
    path, losses = dumped(tmp_path)
    torch.manual_seed(123)
    before = torch.get_rng_state()

    again = replay(path)

    assert path.name == 'iter_3_rank_0.pth'
    assert list(again.losses.items()) == list(losses.items())
    assert {'loss', 'student.loss', 'distill.loss_trap'} <= set(losses)
    assert again.img_paths == [f'images/{i}.png' for i in range(8, 12)]
    again.loss.backward()
    assert again.model.student.backbone.cls_token.grad.isnan().all()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize('fused', [True, False])
def test_a_dump_of_bfloat16_is_replayed_in_it(
    fused: bool, tmp_path: Path
) -> None:
    mixed = dict(
        type='Bfloat16OptimWrapper',
        fused_attention=fused,
        optimizer=dict(type='SGD', lr=0.1),
    )

    path, losses = dumped(tmp_path, optim_wrapper=mixed)

    dump = torch.load(path, weights_only=False)
    assert replay(path).losses == losses
    dump['amp'] = dict(enabled=False)
    other = tmp_path / 'float32.pth'
    torch.save(dump, other)
    assert replay(other).losses != losses


def test_soft_labels_are_dumped_as_they_came(tmp_path: Path) -> None:
    samples = batches(4, bad=(2,), value=0.0)
    for label, sample in enumerate(samples):
        sample['data_samples'].set_gt_score(torch.eye(5)[label % 5])

    # Mixup replaces them by mixed ones.
    path, losses = dumped(tmp_path, train_dataloader=loader(samples))

    batch = torch.load(path, weights_only=False)['data_batch']
    for label, sample in enumerate(batch['data_samples'], start=8):
        assert torch.equal(sample.gt_score, torch.eye(5)[label % 5])
    assert replay(path).losses == losses


def test_the_dump_depends_on_the_state_that_it_holds(tmp_path: Path) -> None:
    path, losses = dumped(tmp_path)
    dump = torch.load(path, weights_only=False)

    for key in ('random_state', 'training', 'state_dict', 'teacher'):
        other = copy.deepcopy(dump)
        if key == 'random_state':
            other[key]['torch'] = torch.get_rng_state()
        elif key == 'training':
            other[key] = dict.fromkeys(other[key], False)
        else:
            weights = [v for k, v in other[key].items() if '.head' in k or k]
            for weight in weights:
                weight.mul_(1.5)
        changed = tmp_path / f'{key}.pth'
        torch.save(other, changed)
        assert replay(changed).losses != losses, key


def test_a_loss_with_a_schedule_is_replayed_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = dumped(tmp_path)
    done, total = torch.load(path, weights_only=False)['progress'].values()
    assert (done, total) == (2, 4)
    # Another process, as it were.
    hub = MessageHub('another')
    monkeypatch.setattr(MessageHub, 'get_current_instance', lambda: hub)
    seen = []
    model = replay(path).model
    model.register_forward_pre_hook(lambda *_: seen.append(CSKDLoss().alpha))

    replay(path, model=model)

    assert seen == [1 - done / total]
    assert CSKDLoss().alpha == 1


def test_a_teacher_with_a_checkpoint_is_not_dumped(tmp_path: Path) -> None:
    weights = MODELS.build(vit_config()).state_dict()
    torch.save(weights, tmp_path / 'teacher.pth')
    model = trapped(
        'gradient',
        teacher_ckpt=str(tmp_path / 'teacher.pth'),
        allow_random_teacher=False,
    )

    path, losses = dumped(tmp_path, model=model, cfg=dict(model=model))

    assert 'teacher' not in torch.load(path, weights_only=False)
    assert replay(path).losses == losses


def test_what_a_teacher_keeps_of_its_weights_is_that_of_the_dump(
    tmp_path: Path,
) -> None:
    model = MODELS.build(trapped('gradient', **STOCHASTIC))
    model.teacher.cache = EvalCache().eval()
    path, _ = dumped(tmp_path, model=model)
    nn.init.constant_(model.teacher.cache.weight, 5)
    model.teacher.eval()

    replay(path, model=model)

    assert model.teacher.cache.cached == 2


def test_a_run_without_config_is_replayed_with_its_model(
    tmp_path: Path,
) -> None:
    model = MODELS.build(trapped('gradient', **STOCHASTIC))

    path, losses = dumped(tmp_path, model=copy.deepcopy(model), cfg=dict())

    with pytest.raises(ValueError, match='hand it over as model='):
        replay(path)
    assert replay(path, model=model).losses == losses


def test_a_disk_that_is_full_hides_no_other_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(torch, 'save', full)

    with pytest.raises(FloatingPointError, match='No space left') as error:
        run(tmp_path, build(), batches(1, bad=(0,)), dict())
    assert 'student.loss=nan' in str(error.value)
    assert not list(tmp_path.glob('non_finite/*'))


# -- skip -------------------------------------------------------------------

SKIP = dict(action='skip')


def cnn() -> nn.Module:
    """Batch norm, so that a forward pass alone leaves traces."""
    torch.manual_seed(0)
    return MODELS.build(cnn_config())


def fused_on_cpu() -> bool:
    try:
        torch.optim.AdamW([torch.zeros(1, requires_grad=True)], fused=True)
    except RuntimeError:
        return False
    return True


OPTIMIZERS = {
    'SGD': dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=0.1),
    'AdamW': dict(type='AdamW', lr=0.01, weight_decay=0.1),
    'fused AdamW': dict(type='AdamW', lr=0.01, fused=True),
    'RMSprop': dict(type='RMSprop', lr=0.01),
    'Lamb': dict(type='Lamb', lr=0.01),
}


@pytest.mark.parametrize('optimizer', list(OPTIMIZERS))
def test_a_skipped_step_leaves_no_trace(
    optimizer: str, tmp_path: Path
) -> None:
    if 'fused' in optimizer and not fused_on_cpu():
        pytest.skip('this torch has fused optimizers for CUDA only')
    samples = batches(4, bad=(1, 2))
    wrapper = dict(
        optimizer=OPTIMIZERS[optimizer], clip_grad=dict(max_norm=1.0)
    )

    skipped = run(tmp_path / 'a', cnn(), samples, SKIP, optim_wrapper=wrapper)
    expected = run(
        tmp_path / 'b',
        cnn(),
        without(samples, 1, 2),
        optim_wrapper=copy.deepcopy(wrapper),
    )

    assert_equal(skipped, expected)
    assert all(v.isfinite().all() for v in skipped.model.state_dict().values())


def test_the_first_step_may_be_skipped_and_logged(tmp_path: Path) -> None:
    """There is no norm yet that a mean could be of."""
    run(
        tmp_path,
        cnn(),
        batches(2, bad=(0,)),
        SKIP,
        optim_wrapper=dict(
            optimizer=dict(type='SGD', lr=0.1), clip_grad=dict(max_norm=1.0)
        ),
        default_hooks=dict(logger=dict(type='LoggerHook', interval=1)),
        log_processor=dict(mean_pattern='loss'),  # the last norm, not a mean
        log_level='INFO',
    )

    text = ''.join(p.read_text() for p in tmp_path.glob('*/*.log'))
    (first, last) = (x for x in text.splitlines() if 'Epoch(train)' in x)
    assert 'grad_norm' not in first
    assert 'grad_norm: ' in last
    assert 'grad_norm: nan' not in last


def test_skipped_steps_are_counted_and_kept_out_of_the_means(
    tmp_path: Path,
) -> None:
    runner = run(
        tmp_path,
        cnn(),
        batches(4, bad=(1, 2)),
        SKIP,
        optim_wrapper=dict(
            optimizer=dict(type='SGD', lr=0.1), clip_grad=dict(max_norm=1.0)
        ),
        default_hooks=dict(logger=dict(type='LoggerHook', interval=1)),
        log_level='INFO',
    )

    lines = [
        line
        for path in tmp_path.glob('*/*.log')
        for line in path.read_text().splitlines()
    ]
    assert (
        runner.message_hub.get_scalar('train/skipped_updates').current() == 2
    )
    (last,) = (line for line in lines if '[1][4/4]' in line)
    assert 'skipped_updates: 2' in last
    assert 'loss: nan' not in last
    assert 'grad_norm: ' in last
    assert 'grad_norm: nan' not in last
    warnings = [line for line in lines if 'No update, as' in line]
    assert len(warnings) == 2
    assert 'images/4.png' in warnings[0]
    assert 'images/8.png' in warnings[1]
    # One dump tells enough.
    assert [p.name for p in tmp_path.glob('non_finite/*')] == [
        'iter_2_rank_0.pth'
    ]


def test_the_count_goes_on_after_a_resume(tmp_path: Path) -> None:
    runner = make_runner(
        tmp_path,
        cnn(),
        train_dataloader=loader(batches(2, bad=(1,))),
        custom_hooks=[dict(type='NonFiniteHook', action='skip')],
    )
    runner.message_hub.update_scalar('train/skipped_updates', 7)

    runner.train()

    count = runner.message_hub.get_scalar('train/skipped_updates')
    assert count.current() == 8


def test_too_many_skips_in_a_row_stop(tmp_path: Path) -> None:
    hook = dict(action='skip', max_consecutive=2)
    run(tmp_path / 'a', cnn(), batches(6, bad=(0, 1, 3, 4)), hook)

    with pytest.raises(FloatingPointError, match='^3 updates in a row'):
        run(tmp_path / 'b', cnn(), batches(4, bad=(1, 2, 3)), hook)


def test_skips_in_a_row_are_counted_on_after_a_resume(tmp_path: Path) -> None:
    hook = dict(action='skip', max_consecutive=2)
    settings = dict(
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1))
    )
    run(tmp_path, cnn(), batches(3, bad=(1, 2)), hook, **settings)

    with pytest.raises(FloatingPointError, match='^3 updates in a row'):
        run(
            tmp_path,
            cnn(),
            batches(1, bad=(0,)),
            hook,
            resume=True,
            train_cfg=dict(by_epoch=True, max_epochs=2),
            **settings,
        )


def test_none_may_be_skipped_where_the_limit_is_zero(tmp_path: Path) -> None:
    hook = dict(action='skip', max_consecutive=0)

    with pytest.raises(FloatingPointError, match='^1 updates in a row'):
        run(tmp_path, cnn(), batches(2, bad=(1,)), hook)


def test_of_accumulated_gradients_all_are_left_out(tmp_path: Path) -> None:
    wrapper = dict(
        optimizer=dict(type='SGD', lr=0.1, momentum=0.9),
        accumulative_counts=2,
    )
    samples = batches(8, bad=(2, 7))

    # Layer norm: the good halves of the windows leave no statistics.
    torch.manual_seed(0)
    model = build()
    skipped = run(
        tmp_path / 'a',
        copy.deepcopy(model),
        samples,
        SKIP,
        optim_wrapper=wrapper,
    )
    expected = run(
        tmp_path / 'b',
        model,
        without(samples, 2, 3, 6, 7),
        optim_wrapper=copy.deepcopy(wrapper),
    )

    assert_equal(skipped, expected)
    count = skipped.message_hub.get_scalar('train/skipped_updates')
    assert count.current() == 2


def skips(folder: Path) -> list[str]:
    lines = ''.join(p.read_text() for p in folder.glob('*/*.log')).splitlines()
    return [line for line in lines if 'No update, as' in line]


def test_one_cause_in_accumulated_gradients_is_one_warning(
    tmp_path: Path,
) -> None:
    wrapper = dict(optimizer=dict(type='SGD', lr=0.1), accumulative_counts=2)

    run(tmp_path, cnn(), batches(2, bad=(0,)), SKIP, optim_wrapper=wrapper)

    assert len(skips(tmp_path)) == 1


def test_a_cause_may_lie_in_gradients_that_were_added_before(
    tmp_path: Path,
) -> None:
    model = MODELS.build(trapped('gradient'))
    model.init_weights()
    wrapper = dict(optimizer=dict(type='SGD', lr=0.1), accumulative_counts=3)
    samples = batches(6, bad=(3,), value=0.0)

    with pytest.raises(
        FloatingPointError,
        match=r'iteration 6 \(epoch 1\) or in 2 before it, .* not named: rank',
    ):
        run(tmp_path, model, samples, dict(), optim_wrapper=wrapper)


def test_a_norm_is_named_in_its_own_iteration_alone(tmp_path: Path) -> None:
    wrapper = dict(
        optimizer=dict(type='SGD', lr=0.1),
        clip_grad=dict(max_norm=5.0),
        accumulative_counts=2,
    )
    model = MODELS.build(trapped('huge'))
    model.init_weights()
    samples = batches(2, bad=(1,), value=0.0) + batches(2, bad=(0,))

    run(tmp_path, model, samples, SKIP, optim_wrapper=wrapper)

    named = ['norm of the gradients' in line for line in skips(tmp_path)]
    assert named == [True, False]


def test_a_step_may_return_nothing(tmp_path: Path) -> None:
    model = cnn()
    step = model.train_step

    def silent_step(data: dict, optim_wrapper: Any) -> None:
        step(data, optim_wrapper)

    model.train_step = silent_step
    skipped = run(tmp_path, model, batches(2, bad=(0,)), SKIP)

    count = skipped.message_hub.get_scalar('train/skipped_updates')
    assert count.current() == 1


@pytest.mark.parametrize('kind', ['gradient', 'value'])
def test_either_cause_is_skipped(kind: str, tmp_path: Path) -> None:
    model = MODELS.build(trapped(kind))
    model.init_weights()
    samples = batches(4, bad=(1,), value=0.0)

    skipped = run(tmp_path / 'a', copy.deepcopy(model), samples, SKIP)
    expected = run(tmp_path / 'b', model, without(samples, 1))

    assert_equal(skipped, expected)


# -- loss scaling -----------------------------------------------------------


@pytest.fixture
def amp(monkeypatch: pytest.MonkeyPatch) -> dict:
    """MMEngine's AmpOptimWrapper on a CPU, with a scaler of PyTorch's."""
    if not hasattr(torch.amp, 'GradScaler'):
        pytest.skip('this torch has gradient scalers for CUDA only')
    monkeypatch.setattr(
        amp_optimizer_wrapper, 'is_cuda_available', lambda: True
    )
    monkeypatch.setattr(
        amp_optimizer_wrapper,
        'GradScaler',
        functools.partial(torch.amp.GradScaler, 'cpu'),
    )
    return dict(
        type='AmpOptimWrapper',
        dtype='bfloat16',
        optimizer=dict(type='AdamW', lr=0.01),
    )


# Scaled gradients overflow float32 at first, the gradients do not.
HUGE = dict(init_scale=2.0**127, growth_interval=1000)


def steep() -> nn.Module:
    """Gradients of more than 1."""
    torch.manual_seed(0)
    cfg = cnn_config()
    cfg['head']['loss'] = dict(type='CrossEntropyLoss', loss_weight=100.0)
    return MODELS.build(cfg)


@pytest.mark.parametrize('fused', [False, True])
@pytest.mark.parametrize('action', ['stop', 'skip'])
def test_a_scaler_that_looks_for_its_scale_is_left_alone(
    action: str, fused: bool, amp: dict, tmp_path: Path
) -> None:
    amp['optimizer']['fused'] = fused
    wrapper = dict(amp, loss_scale=dict(HUGE))
    guarded = run(
        tmp_path / 'a',
        steep(),
        batches(6),
        dict(action=action),
        optim_wrapper=wrapper,
    )
    alone = run(
        tmp_path / 'b',
        steep(),
        batches(6),
        optim_wrapper=dict(amp, loss_scale=dict(HUGE)),
    )

    scale = guarded.optim_wrapper.loss_scaler.get_scale()
    assert scale < 2.0**127
    assert scale == alone.optim_wrapper.loss_scaler.get_scale()
    assert_equal(guarded, alone)
    assert 'train/skipped_updates' not in guarded.message_hub.log_scalars


@pytest.mark.parametrize('fused', [False, True])
def test_a_nan_loss_does_not_hide_behind_a_scaler(
    fused: bool, amp: dict, tmp_path: Path
) -> None:
    amp['optimizer']['fused'] = fused
    samples = batches(4, bad=(1,))
    small = dict(init_scale=2.0)

    with pytest.raises(FloatingPointError, match='iteration 2 .* loss=nan'):
        run(
            tmp_path / 'a',
            cnn(),
            samples,
            dict(),
            optim_wrapper=dict(amp, loss_scale=dict(small)),
        )
    (dump,) = tmp_path.glob('a/non_finite/*')
    assert torch.load(dump, weights_only=False)['amp'] == dict(
        dtype=torch.bfloat16
    )
    skipped = run(
        tmp_path / 'b',
        cnn(),
        samples,
        SKIP,
        optim_wrapper=dict(amp, loss_scale=dict(small)),
    )
    count = skipped.message_hub.get_scalar('train/skipped_updates')
    assert count.current() == 1
    assert all(v.isfinite().all() for v in skipped.model.state_dict().values())


def test_gradients_that_no_scale_helps_stop(
    amp: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(non_finite_hook, 'MAX_OVERFLOWS', 2)
    model = MODELS.build(trapped('gradient'))

    with pytest.raises(
        FloatingPointError, match='iteration 4 .*loss_trap=0[,;]'
    ):
        run(
            tmp_path,
            model,
            batches(6, bad=(1, 2, 3, 4, 5), value=0.0),
            SKIP,
            optim_wrapper=dict(amp, loss_scale='dynamic'),
        )


def test_overflows_with_an_update_between_are_not_in_a_row(
    amp: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(non_finite_hook, 'MAX_OVERFLOWS', 2)

    run(
        tmp_path,
        MODELS.build(trapped('gradient')),
        batches(6, bad=(1, 2, 4, 5), value=0.0),
        SKIP,
        optim_wrapper=dict(amp, loss_scale='dynamic'),
    )


# -- settings and surroundings ----------------------------------------------


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(action='ignore'), r"\['stop', 'skip'\], got 'ignore'"),
        (dict(max_consecutive=-1), '>= 0, got -1'),
    ],
)
def test_settings_out_of_range_are_refused(
    settings: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        non_finite_hook.NonFiniteHook(**settings)


def test_stopping_needs_no_optimizer_of_pytorch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(non_finite_hook, 'optimizers', lambda runner: [])
    # That no update was seen is no overflow.
    monkeypatch.setattr(non_finite_hook, 'MAX_OVERFLOWS', 0)
    samples = batches(2, bad=(1,))

    with pytest.raises(FloatingPointError, match='iteration 2 '):
        run(tmp_path / 'a', cnn(), samples, dict(action='stop'))
    with pytest.raises(TypeError, match="needs an .* set action='stop'"):
        run(tmp_path / 'b', cnn(), samples, SKIP)


def test_what_is_computed_beside_the_losses_is_not_looked_at(
    tmp_path: Path,
) -> None:
    model = cnn()
    loss = model.loss

    def with_features(inputs: Tensor, data_samples: list) -> dict:
        assert not model(inputs * NAN, mode='tensor')[0].isfinite().any()
        return loss(inputs, data_samples)

    model.eval()  # running statistics stay finite
    model.train = lambda mode=True: model
    model.loss = with_features

    run(tmp_path, model, batches(2), dict(action='stop'))


class CopyModel(Hook):
    """Copies the model and computes losses with the copy."""

    def after_train_iter(self, runner: Runner, **_: Any) -> None:
        duplicate = copy.deepcopy(runner.model)
        batch = next(iter(runner.train_dataloader))
        duplicate(**duplicate.data_preprocessor(batch), mode='loss')


def test_copies_of_the_model_are_no_concern(tmp_path: Path) -> None:
    runner = make_runner(
        tmp_path,
        cnn(),
        train_dataloader=loader(batches(3, bad=(0,))),
        custom_hooks=[CopyModel(), dict(type='NonFiniteHook', action='skip')],
    )

    runner.train()

    count = runner.message_hub.get_scalar('train/skipped_updates')
    assert count.current() == 1
    assert not runner.model._forward_hooks


def test_training_without_incidents_is_the_same_with_the_hook(
    tmp_path: Path,
) -> None:
    model = MODELS.build(algorithm_config(**STOCHASTIC))
    model.init_weights()

    guarded = run(tmp_path / 'a', copy.deepcopy(model), batches(3), dict())
    alone = run(tmp_path / 'b', model, batches(3))

    assert_equal(guarded, alone)
    assert math.isfinite(guarded.message_hub.get_scalar('train/loss').mean())
