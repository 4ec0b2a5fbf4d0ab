# Copyright (c) The serkd_mm authors. All rights reserved.
"""Values are written as Python that gives them back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serkd_mm.analysis.python_text import WIDTH, Reference, assignment

NAMES = st.text('abcdefgh_', min_size=1, max_size=12)
TEXTS = st.text('ab/-._:', max_size=100)
VALUES = st.recursive(
    st.one_of(st.integers(), st.booleans(), st.none(), TEXTS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.one_of(NAMES, TEXTS), inner, max_size=4),
    ),
    max_leaves=12,
)


@given(VALUES)
def test_the_text_gives_the_value_back(value: Any) -> None:
    names: dict[str, Any] = {}

    exec(assignment('name', value), names)

    assert names['name'] == value


@pytest.mark.parametrize(
    'value',
    [
        dict(a=1, b=[dict(c='x' * 60), dict(d='y' * 30)]),
        dict(url='https://host.org/' + 'part/' * 30 + 'file.pth'),
        [('x' * 40, 'y' * 40)],
    ],
)
def test_no_line_is_too_long(value: Any) -> None:
    lines = assignment('model', value).splitlines()

    assert len(lines) > 1
    assert max(map(len, lines)) <= WIDTH


def test_a_long_path_is_one_statement() -> None:
    path = '../' + 'folder/' * 20 + 'config.py'
    names: dict[str, Any] = {}

    text = assignment('_base_', path)
    exec(text, names)

    assert names['_base_'] == path
    assert max(map(len, text.splitlines())) <= WIDTH


def test_what_is_no_name_is_written_as_a_key() -> None:
    text = assignment('x', {'.cls_token': dict(decay=0.0), 'class': 1})

    assert text == "x = {'.cls_token': dict(decay=0.0), 'class': 1}"


def test_references_stand_as_they_are() -> None:
    text = assignment('model', dict(head=Reference('_base_.model.head')))

    assert text == 'model = dict(head=_base_.model.head)'
