# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from serkd_mm.models import SuperpixelTokenizer, TokenMap
from serkd_mm.visualization import (
    draw_superpixels,
    superpixel_assignments,
    superpixel_labels,
    superpixels,
)
from serkd_mm.visualization.superpixels import (
    Assignment,
    superpixel_records,
    warn_of_others,
)

from ..models.builders import batch, build, distiller_config, vit_config


def blocks(hw: tuple[int, int] = (4, 4)) -> Assignment:
    """Every token wholly in the cell of 2x2 that it lies in."""
    height, width = hw
    weights = torch.zeros(1, height * width, (height // 2) * (width // 2))
    for y in range(height):
        for x in range(width):
            weights[0, y * width + x, (y // 2) * (width // 2) + x // 2] = 1
    return Assignment(weights, hw)


# -- assignments ------------------------------------------------------------


def test_both_sides_form_superpixels_of_the_tokens() -> None:
    model = build().eval()
    inputs, _ = batch(3)

    assignments = superpixel_assignments(model, inputs)

    assert set(assignments) == {'teacher', 'student'}
    for weights, hw in assignments.values():
        assert hw == (4, 4)
        assert weights.shape == (3, 16, 4)
        assert not weights.requires_grad
        torch.testing.assert_close(weights.sum(-1), torch.ones(3, 16))


def test_the_assignments_are_those_that_training_uses() -> None:
    model = build().eval()
    inputs, _ = batch(2)
    used: list[torch.Tensor] = []
    for name in ('student', 'teacher'):
        chain = model.distiller.connectors[f'{name}_superpixels']
        chain[-1].register_forward_hook(
            lambda _m, args, _o: used.append(args[0].tokens.detach())
        )
    model(inputs, batch(2)[1], mode='loss')
    assert len(used) == 2

    assignments = superpixel_assignments(model, inputs)

    for side, tokens in zip(('student', 'teacher'), used):
        tokenizer = model.distiller.connectors[f'{side}_superpixels'][-1]
        expected = tokenizer.assignment(TokenMap(tokens, (4, 4)))
        torch.testing.assert_close(assignments[side].weights, expected)


def test_the_teacher_gets_its_own_normalisation() -> None:
    plain = dict(type='ClsDataPreprocessor', mean=[0.0] * 3, std=[1.0] * 3)
    other = dict(plain, std=[0.1, 5.0, 1.0])
    model = build(
        data_preprocessor=plain,
        teacher=dict(vit_config(), data_preprocessor=other),
    ).eval()
    inputs, _ = batch(2)
    ours = superpixel_assignments(model, inputs)['teacher'].weights

    model.renormalize = None

    without = superpixel_assignments(model, inputs)['teacher'].weights
    assert not torch.allclose(ours, without, atol=1e-3)


def test_a_model_without_superpixels_is_refused() -> None:
    model = build(distiller=distiller_config(losses=('loss_feature',)))

    with pytest.raises(ValueError, match='SuperpixelTokenizer'):
        superpixel_assignments(model, batch()[0])


def test_a_side_without_superpixels_is_left_out() -> None:
    cfg = distiller_config(losses=('loss_distance',))
    mapping = cfg['loss_forward_mappings']['loss_distance']
    mapping['preds_S'].update(connector='student_tokens', connector_idx=0)
    # Their losses would not fit, and are not needed here.
    model = build(distiller=cfg, input_size=0).eval()

    assert set(superpixel_assignments(model, batch()[0])) == {'teacher'}


# -- labels -----------------------------------------------------------------


def test_of_several_superpixels_the_first_are_looked_at(
    logged: Callable,
) -> None:
    tokenizer = torch.nn.Sequential(SuperpixelTokenizer())
    records = [
        dict(recorder='tokens', from_student=True, connector=connector)
        for connector in ('one', 'other')
    ]
    distiller = SimpleNamespace(
        connectors=dict(one=tokenizer, other=tokenizer),
        loss_forward_mappings=dict(
            loss_a=dict(preds_S=records[0]), loss_b=dict(preds_S=records[1])
        ),
    )
    assert superpixel_records(distiller) == dict(student=records[0])
    said = logged(superpixels)
    warn_of_others(distiller)
    assert said == ['Pictures show superpixels of one, not those of other']
    del distiller.loss_forward_mappings['loss_b']
    warn_of_others(distiller)
    assert len(said) == 1


def test_a_pixel_belongs_to_its_strongest_superpixel() -> None:
    labels = superpixel_labels(blocks(), (8, 8))

    assert labels.shape == (1, 8, 8)
    assert labels.dtype == torch.int64
    expected = torch.tensor([[0, 1], [2, 3]])
    expected = expected.repeat_interleave(4, 0).repeat_interleave(4, 1)
    assert torch.equal(labels[0], expected)


def test_labels_follow_a_grid_that_is_no_square() -> None:
    labels = superpixel_labels(blocks((2, 6)), (4, 12))

    expected = torch.arange(3).repeat_interleave(4).expand(4, 12)
    assert torch.equal(labels[0], expected)


def test_boundaries_run_between_tokens() -> None:
    # The middle token is split 70 to 30: its superpixel reaches over it.
    weights = torch.tensor([[[1.0, 0.0], [0.7, 0.3], [0.0, 1.0]]])

    labels = superpixel_labels(Assignment(weights, (1, 3)), (3, 30))

    first = int((labels[0, 1] == 0).sum())
    # Linear between centres at 15 (0.7) and 25 (0): 0.5 at 17.9.
    assert first == 18


# -- drawing ----------------------------------------------------------------


IMAGE = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)
HALVES = np.array([[0, 0, 1, 1]] * 4)


def test_outlines_are_drawn_where_labels_change_and_nowhere_else() -> None:
    before = IMAGE.copy()

    drawn = draw_superpixels(IMAGE, HALVES, color=(1, 2, 255))

    assert (drawn[:, 1] == (1, 2, 255)).all()
    rest = [0, 2, 3]
    assert np.array_equal(drawn[:, rest], IMAGE[:, rest])
    assert np.array_equal(IMAGE, before)


def test_outlines_between_rows_are_drawn_too() -> None:
    drawn = draw_superpixels(IMAGE, HALVES.T, color=(9, 9, 9))

    assert (drawn[1] == 9).all()
    rest = [0, 2, 3]
    assert np.array_equal(drawn[rest], IMAGE[rest])


def test_one_superpixel_has_no_outline() -> None:
    drawn = draw_superpixels(IMAGE, np.zeros((4, 4), dtype=int))

    assert np.array_equal(drawn, IMAGE)
    assert drawn is not IMAGE


def test_a_superpixel_is_painted_in_its_mean_colour() -> None:
    drawn = draw_superpixels(IMAGE, HALVES, mode='mean')

    assert drawn.dtype == np.uint8
    for columns in (slice(0, 2), slice(2, 4)):
        mean = IMAGE[:, columns].reshape(-1, 3).mean(0).round()
        assert (drawn[:, columns] == mean).all()


def test_labels_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r'\(3, 4\) do not fit'):
        draw_superpixels(IMAGE, HALVES[:3])


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="got 'fill'"):
        draw_superpixels(IMAGE, HALVES, mode='fill')


def test_looking_at_superpixels_keeps_no_records() -> None:
    model = build().eval()
    superpixel_assignments(model, batch()[0])
    recorders = [
        *model.distiller.student_recorders.recorders.values(),
        *model.distiller.teacher_recorders.recorders.values(),
    ]
    assert not any(recorder.data_buffer for recorder in recorders)
