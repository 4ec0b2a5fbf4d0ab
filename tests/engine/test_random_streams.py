# Copyright (c) The serkd_mm authors. All rights reserved.
"""Streams of random numbers by their names."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from serkd_mm.engine.random_streams import enter_stream


def draw(*name: int) -> tuple[float, float, float]:
    enter_stream(*name)
    return random.random(), np.random.rand(), torch.rand(()).item()


def test_a_name_gives_its_numbers_again() -> None:
    first = draw(3, 1)
    draw(3, 2)

    assert draw(3, 1) == first


def test_names_of_the_same_numbers_in_another_order_are_others() -> None:
    pairs = zip(draw(3, 1), draw(1, 3))

    assert all(one != other for one, other in pairs)


@pytest.mark.parametrize('devices', [True, False])
def test_devices_are_seeded_where_they_are_wanted(
    devices: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers of a data loader must not touch the ones of the training."""
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, 'manual_seed_all', seeded.append)

    enter_stream(3, 1, devices=devices)

    assert bool(seeded) is devices
