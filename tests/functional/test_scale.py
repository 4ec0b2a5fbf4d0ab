# Copyright (c) The serkd_mm authors. All rights reserved.
"""What has no length is refused; what lengths are is in test_properties."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from serkd_mm.functional import batch_as_tokens, unit_length


@pytest.mark.parametrize(
    ('tokens', 'error', 'said'),
    [
        # Would be taken for one image per token.
        (torch.ones(3, 4), ValueError, r'got shape \(3, 4\)'),
        (torch.ones(0, 3, 4), ValueError, r'got shape \(0, 3, 4\)'),
        (torch.ones(1, 3, 4).long(), TypeError, 'got torch.int64'),
    ],
)
def test_what_are_no_tokens_has_no_length(
    tokens: Tensor, error: type, said: str
) -> None:
    with pytest.raises(error, match=f'tokens must be .*{said}'):
        unit_length(tokens)


@pytest.mark.parametrize(
    ('embeddings', 'error', 'said'),
    [
        (torch.ones(4), ValueError, r'got shape \(4,\)'),
        (torch.ones(0, 3), ValueError, r'got shape \(0, 3\)'),
        (torch.ones(2, 3).long(), TypeError, 'got torch.int64'),
    ],
)
def test_what_are_no_embeddings_are_no_tokens(
    embeddings: Tensor, error: type, said: str
) -> None:
    with pytest.raises(error, match=f'embeddings must be .*{said}'):
        batch_as_tokens(embeddings)
