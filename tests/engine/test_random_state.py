# Copyright (c) The serkd_mm authors. All rights reserved.
from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from serkd_mm.engine.random_state import (
    get_random_state,
    kept_random_state,
    set_random_state,
)


def draw() -> list[float]:
    """A number of every generator, those that keep a second one included."""
    return [
        random.random(),
        random.gauss(0, 1),
        np.random.rand(),
        np.random.randn(),
        float(torch.rand(())),
    ]


def test_every_generator_goes_back_to_where_it_was() -> None:
    # One of a pair of normal numbers is still to be handed out.
    draw()
    state = get_random_state()
    first = [draw() for _ in range(3)]

    set_random_state(state)

    assert [draw() for _ in range(3)] == first


def test_what_is_drawn_in_between_does_not_show() -> None:
    state = get_random_state()
    expected = draw()
    set_random_state(state)

    def fail() -> None:
        with kept_random_state():
            draw()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert draw() == expected
