# Copyright (c) The serkd_mm authors. All rights reserved.
"""Slow float64 versions of the mathematics, written from the equations.

One Python loop per index of the formula and nothing shared with the package.
Autograd runs through them, so they are oracles of gradients as well.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# How far a result of that dtype may be from the float64 reference. The
# mathematics runs in float32 for the halves, so all that is left for them is
# the rounding of what is handed back in their own dtype.
TOLERANCE = {
    torch.float64: 1e-9,
    torch.float32: 2e-5,
    torch.float16: 2e-3,
    torch.bfloat16: 1.6e-2,
}
DTYPES = list(TOLERANCE)


def assert_matches(
    actual: Tensor, expected: Tensor, floor: float = 0.0
) -> None:
    """Compare with the reference at the tolerance of ``actual.dtype``.

    The absolute tolerance follows the largest expected entry (at least
    ``floor``), so that tiny and huge gradients are judged alike.
    """
    tolerance = TOLERANCE[actual.dtype]
    peak = max(expected.detach().abs().max().item(), floor)
    torch.testing.assert_close(
        actual.detach().double(),
        expected.detach().double(),
        rtol=tolerance,
        atol=tolerance * peak,
    )


def superpixel_tokens_reference(
    tokens: Tensor,
    hw: tuple[int, int],
    grid_size: tuple[int, int],
    num_iters: int,
    affinity: str,
) -> tuple[Tensor, Tensor]:
    """Superpixels ``(B, K, C)`` and the last assignment ``(B, N, K)``."""
    tokens = tokens.double()
    height, width = hw
    rows = math.ceil(height / grid_size[0])
    cols = math.ceil(width / grid_size[1])
    num_superpixels = rows * cols

    # The cell that each token starts in, as (row, column) of the grid.
    cells = [
        (y // grid_size[0], x // grid_size[1])
        for y in range(height)
        for x in range(width)
    ]

    images, assignments = [], []
    for image in tokens:
        # S^0: the plain average of every cell.
        superpixels = []
        for k in range(num_superpixels):
            members = [
                image[n]
                for n, (row, col) in enumerate(cells)
                if row * cols + col == k
            ]
            superpixels.append(sum(members) / len(members))
        q = [
            [
                tokens.new_tensor(float(row * cols + col == k))
                for k in range(num_superpixels)
            ]
            for row, col in cells
        ]

        for _ in range(num_iters):
            # Eq. 7 or Eq. 5: a softmax over the neighbours that exist.
            for n, (row, col) in enumerate(cells):
                logits = {}
                for k in range(num_superpixels):
                    if abs(k // cols - row) > 1 or abs(k % cols - col) > 1:
                        continue
                    if affinity == 'attention':
                        logits[k] = (image[n] * superpixels[k]).sum() / (
                            math.sqrt(tokens.shape[-1])
                        )
                    elif affinity == 'rbf':
                        logits[k] = -((image[n] - superpixels[k]) ** 2).sum()
                    else:
                        raise ValueError(affinity)
                top = max(logit.item() for logit in logits.values())
                mass = {k: torch.exp(v - top) for k, v in logits.items()}
                total = sum(mass.values())
                for k in range(num_superpixels):
                    q[n][k] = (
                        mass[k] / total if k in mass else image.new_zeros(())
                    )
            # Eq. 6 or Eq. 8: the average weighted by the column.
            superpixels = [
                sum(q[n][k] * image[n] for n in range(len(cells)))
                / sum(q[n][k] for n in range(len(cells)))
                for k in range(num_superpixels)
            ]

        images.append(torch.stack(superpixels))
        assignments.append(torch.stack([torch.stack(row) for row in q]))
    return torch.stack(images), torch.stack(assignments)


def _huber(difference: Tensor) -> Tensor:
    """Huber with delta 1."""
    size = difference.abs()
    return 0.5 * size**2 if size < 1 else size - 0.5


def _length(vector: Tensor) -> Tensor | None:
    """Euclidean length, or None for the zero vector."""
    if not bool((vector != 0).any()):
        return None
    return torch.sqrt((vector**2).sum())


def _mean_positive(distances: list[Tensor | None]) -> Tensor | None:
    """Mean of the positive distances, None where there is none."""
    positive = [d for d in distances if d is not None]
    return sum(positive) / len(positive) if positive else None


def _normalized_distances(tokens: Tensor, normalize: str) -> list:
    """``psi_D`` as ``[b][i][j]``."""
    size = tokens.shape[1]
    lengths = [
        [
            [_length(image[i] - image[j]) for j in range(size)]
            for i in range(size)
        ]
        for image in tokens
    ]
    flat = [[d for row in image for d in row] for image in lengths]
    if normalize == 'image':
        means = [_mean_positive(distances) for distances in flat]
    elif normalize == 'batch':
        means = [_mean_positive(sum(flat, []))] * len(flat)
    else:
        raise ValueError(normalize)
    return [
        [
            [tokens.new_zeros(()) if d is None else d / mean for d in row]
            for row in image
        ]
        for image, mean in zip(lengths, means)
    ]


def distance_loss_reference(
    student: Tensor, teacher: Tensor, normalize: str = 'image'
) -> Tensor:
    """Mean over images and all ``K^2`` pairs of Huber of ``psi_D``."""
    student, teacher = student.double(), teacher.detach().double()
    batch, size = student.shape[:2]
    psi_s = _normalized_distances(student, normalize)
    psi_t = _normalized_distances(teacher, normalize)
    total = student.sum() * 0
    for b in range(batch):
        for i in range(size):
            for j in range(size):
                total = total + _huber(psi_s[b][i][j] - psi_t[b][i][j])
    return total / (batch * size**2)


def _cosine_at_vertex(a: Tensor, vertex: Tensor, c: Tensor) -> Tensor:
    """``psi_A``: 0 where one of the two sides of the angle is a point."""
    left, right = a - vertex, c - vertex
    left_length, right_length = _length(left), _length(right)
    if left_length is None or right_length is None:
        return vertex.new_zeros(())
    return (left * right).sum() / (left_length * right_length)


def angle_loss_reference(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over images and all ``K^3`` triples of Huber of ``psi_A``."""
    student, teacher = student.double(), teacher.detach().double()
    batch, size = student.shape[:2]
    total = student.sum() * 0
    for b in range(batch):
        for i in range(size):
            for j in range(size):
                for k in range(size):
                    s, t = student[b], teacher[b]
                    total = total + _huber(
                        _cosine_at_vertex(s[i], s[j], s[k])
                        - _cosine_at_vertex(t[i], t[j], t[k])
                    )
    return total / (batch * size**3)


def rkd_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """RKD's distance-wise loss of one batch of embeddings ``(K, C)``."""

    def psi(embeddings: Tensor) -> Tensor:
        difference = embeddings[:, None] - embeddings[None]
        squared = difference.pow(2).sum(-1)
        off_diagonal = ~torch.eye(len(embeddings), dtype=torch.bool)
        distances = torch.zeros_like(squared)
        distances[off_diagonal] = squared[off_diagonal].sqrt()
        return distances / distances[distances > 0].mean()

    return F.smooth_l1_loss(psi(student), psi(teacher.detach()))


def rkd_angle(student: Tensor, teacher: Tensor) -> Tensor:
    """RKD's angle-wise loss of one batch of embeddings ``(K, C)``."""

    def psi(embeddings: Tensor) -> Tensor:
        # Row j holds the unit vectors that point from j to the others.
        unit = F.normalize(embeddings[None] - embeddings[:, None], dim=-1)
        return unit @ unit.transpose(1, 2)

    return F.smooth_l1_loss(psi(student), psi(teacher.detach()))


def _classify(weight: Tensor, bias: Tensor, feature: Tensor) -> Tensor:
    """Scores of one position, one class after the other."""
    return torch.stack(
        [
            sum(w * x for w, x in zip(row, feature)) + b
            for row, b in zip(weight, bias)
        ]
    )


def _log_softmax(scores: Tensor) -> Tensor:
    return scores - torch.log(torch.exp(scores).sum())


def cskd_reference(
    tokens: Tensor,
    maps: Tensor,
    student_classifier: tuple[Tensor, Tensor],
    teacher_classifier: tuple[Tensor, Tensor],
    alpha: float,
    target: str = 'hard',
    tau: float = 1.0,
) -> Tensor:
    """CSKD from the student's tokens and the teacher's last map.

    Args:
        tokens: Visual tokens of the student, ``(B, h, w, Cs)``.
        maps: Last map of the teacher, ``(B, Ct, H, W)``; ``H`` divides ``h``.
        student_classifier: Weight and bias.
        teacher_classifier: Weight and bias.
        alpha: Weight of the local logits.
        target: ``'hard'`` or ``'soft'``.
        tau: Temperature of the soft target.
    """
    tokens, maps = tokens.double(), maps.detach().double()
    batch, channels, rows, cols = maps.shape
    step_y, step_x = tokens.shape[1] // rows, tokens.shape[2] // cols
    total = tokens.sum() * 0
    for b in range(batch):
        # What the teacher says of the whole image: pooling, then classifier.
        pooled = torch.stack([maps[b, c].mean() for c in range(channels)])
        global_logits = _classify(*teacher_classifier, pooled)
        for y in range(rows):
            for x in range(cols):
                local_logits = _classify(*teacher_classifier, maps[b, :, y, x])
                blend = alpha * local_logits + (1 - alpha) * global_logits
                # The student's logits, each token's own, averaged.
                own = [
                    _classify(*student_classifier, tokens[b, v, u])
                    for v in range(y * step_y, (y + 1) * step_y)
                    for u in range(x * step_x, (x + 1) * step_x)
                ]
                logits = sum(own) / len(own)
                if target == 'hard':
                    total = total - _log_softmax(logits)[blend.argmax()]
                    continue
                wanted = _log_softmax(blend / tau)
                gap = wanted - _log_softmax(logits / tau)
                total = total + tau**2 * (torch.exp(wanted) * gap).sum()
    return total / (batch * rows * cols)


def conv_attention_reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    hw: tuple[int, int],
    num_prefix_tokens: int,
    sharpness: Tensor,
    centers: Tensor,
) -> Tensor:
    """Attention with quadratic relative positions, ``(B, heads, L, d)``."""
    batch, heads, length, width = query.shape
    places = [(y, x) for y in range(hw[0]) for x in range(hw[1])]
    output = []
    for b in range(batch):
        for h in range(heads):
            for i in range(length):
                scores = []
                for j in range(length):
                    content = sum(
                        query[b, h, i, c] * key[b, h, j, c]
                        for c in range(width)
                    )
                    score = content / math.sqrt(width)
                    first = min(i, j) - num_prefix_tokens
                    if first >= 0:
                        here = places[i - num_prefix_tokens]
                        there = places[j - num_prefix_tokens]
                        # r = (|d|^2, d), v = -a (1, -2 D).
                        d = [there[k] - here[k] for k in range(2)]
                        r = [d[0] ** 2 + d[1] ** 2, *d]
                        v = [1, -2 * centers[h, 0], -2 * centers[h, 1]]
                        score = score - sharpness[h] * sum(
                            p * q for p, q in zip(v, r)
                        )
                    scores.append(torch.exp(score))
                mean = sum(s * value[b, h, j] for j, s in enumerate(scores))
                output.append(mean / sum(scores))
    return torch.stack(output).reshape(query.shape)


def aligned_feature_reference(
    tokens: Tensor,
    maps: Tensor,
    kernel: tuple[Tensor, Tensor],
    projection: tuple[Tensor, Tensor],
) -> Tensor:
    """DearKD's feature loss, as far as it is chosen here.

    Args:
        tokens: Visual tokens of the student, ``(B, h, w, Cs)``.
        maps: Early map of the teacher, ``(B, Ct, H, W)``; ``h`` divides ``H``.
        kernel: Weight ``(Cs, 1, 3, 3)`` and bias of the aligner.
        projection: Weight ``(Ct, Cs)`` and bias.
    """
    tokens, maps = tokens.double(), maps.detach().double()
    batch, height, width, channels = tokens.shape
    step_y, step_x = maps.shape[2] // height, maps.shape[3] // width
    weight, bias = kernel

    def normed(b: int, y: int, x: int) -> Tensor:
        token = tokens[b, y, x]
        variance = ((token - token.mean()) ** 2).mean()
        return (token - token.mean()) / torch.sqrt(variance + 1e-5)

    total = tokens.sum() * 0
    for b in range(batch):
        for y in range(height):
            for x in range(width):
                aligned = bias
                for v in range(max(y - 1, 0), min(y + 2, height)):
                    for u in range(max(x - 1, 0), min(x + 2, width)):
                        tap = weight[:, 0, v - y + 1, u - x + 1]
                        aligned = aligned + tap * normed(b, v, u)
                projected = _classify(*projection, aligned)
                window = [
                    maps[b, :, v, u]
                    for v in range(y * step_y, (y + 1) * step_y)
                    for u in range(x * step_x, (x + 1) * step_x)
                ]
                wanted = sum(window) / len(window)
                total = total + ((projected - wanted) ** 2).sum()
    return total / (batch * height * width * maps.shape[1])
