# Copyright (c) The serkd_mm authors. All rights reserved.
"""Every implementation of the angle loss against one slow reference.

What it shares with the fast distance loss is tested with both.

The Triton kernel runs where a CUDA device is present or where the whole run
has TRITON_INTERPRET=1; without either, one test runs this file again in a
process with the interpreter, and that of the distances, and is skipped where
Triton is not installed.
"""

import importlib.util
import os
import runpy
import shutil
import subprocess
import sys
import sysconfig
import warnings
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch.utils.checkpoint import checkpoint

from serkd_mm import ops
from serkd_mm.functional import angle_loss, distance_loss
from serkd_mm.ops import (
    distances_triton,
    relation_fused,
    relation_triton,
    triton_build,
)

INSTALLED = ops.triton_installed()
INTERPRETED = INSTALLED and os.environ.get('TRITON_INTERPRET') == '1'
CUDA = torch.cuda.is_available()
DEVICE = 'cuda' if CUDA and not INTERPRETED else 'cpu'
needs_triton = pytest.mark.skipif(
    not (INTERPRETED or (INSTALLED and CUDA)),
    reason='needs Triton 3, and a CUDA device or TRITON_INTERPRET=1',
)
IMPLS = [
    'reference',
    'chunked',
    pytest.param('triton', marks=needs_triton),
]
# Fast distance losses, and fast angle losses.
DISTANCE = [
    'distance chunked',
    pytest.param('distance triton', marks=needs_triton),
]
FUSED = [*IMPLS[1:], *DISTANCE]
# Before, Dynamo leaves the loss out of its graph.
ONE_GRAPH = hasattr(torch.library, 'register_autograd')  # PyTorch 2.4

# Relative error against float64, for the value and for the gradient over its
# largest entry. Half inputs are exact in float32: what is left is the
# rounding of the gradient to their dtype.
TOLERANCE = {
    torch.float64: (1e-12, 1e-10),
    torch.float32: (5e-5, 5e-5),
    torch.bfloat16: (5e-5, 5e-3),
    torch.float16: (5e-5, 1e-3),
}
SHAPES = [
    pytest.param(*shape, id='x'.join(map(str, shape)))
    for shape in [
        (1, 1, 4, 6),
        (3, 1, 2, 2),
        (3, 2, 3, 5),
        (1, 3, 4, 2),
        (3, 16, 8, 8),
        (1, 49, 6, 12),
        (3, 49, 16, 24),
        (3, 50, 12, 8),
        (1, 196, 4, 6),
    ]
]
UPSTREAM = -2.75


def make_pair(batch, num, student=8, teacher=8, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(
            (batch, num, width), generator=generator, dtype=torch.float64
        ).to(DEVICE, dtype)
        for width in (student, teacher)
    )


def slow_cosines(tokens):
    """Unit differences and their products, ``(B, K, K, K)`` as b j i k."""
    difference = tokens[:, None] - tokens[:, :, None]
    squared = difference.square().sum(-1)
    apart = squared > 0
    length = torch.where(apart, squared, torch.ones_like(squared)).sqrt()
    unit = difference * (apart / length)[..., None]
    return unit @ unit.transpose(2, 3)


def slow_loss(student, teacher):
    total = [
        F.smooth_l1_loss(slow_cosines(s[None]), slow_cosines(t[None]))
        for s, t in zip(student.double(), teacher.detach().double())
    ]
    return torch.stack(total).mean()


def run(loss, student, teacher, upstream=UPSTREAM):
    student = student.detach().clone().requires_grad_()
    value = loss(student, teacher)
    value.backward(torch.full_like(value, upstream))
    return value.detach(), student.grad


def select(impl):
    if impl.startswith('distance'):
        return partial(distance_loss, impl=impl.split()[1])
    return partial(angle_loss, impl=impl)


def run_impl(impl, student, teacher):
    return run(select(impl), student, teacher)


def assert_close(actual, expected, tolerance):
    scale = max(expected.abs().max().item(), 1e-3)
    torch.testing.assert_close(
        actual.double(), expected.double(), rtol=0, atol=tolerance * scale
    )


def unsupported(impl, dtype):
    return impl == 'triton' and dtype == torch.float64


@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize(('batch', 'num', 'student', 'teacher'), SHAPES)
@pytest.mark.parametrize('impl', IMPLS)
def test_value_and_gradient_match_float64(
    impl, dtype, batch, num, student, teacher
):
    if unsupported(impl, dtype):
        pytest.skip('computes in float32')
    pair = make_pair(batch, num, student, teacher, dtype)
    value, grad = run_impl(impl, *pair)
    expected, expected_grad = run(slow_loss, *pair)
    assert value.dtype == max(dtype, torch.float32, key=lambda d: d.itemsize)
    assert grad.dtype == dtype
    value_tolerance, grad_tolerance = TOLERANCE[dtype]
    assert_close(value, expected, value_tolerance)
    assert_close(grad, expected_grad, grad_tolerance)


@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize('impl', DISTANCE)
def test_the_distance_loss_matches_the_readable_one(impl, dtype):
    if unsupported(impl.split()[1], dtype):
        pytest.skip('computes in float32')
    student, teacher = make_pair(3, 49, 16, 24, dtype)
    student[0, 3] = student[0, 5]
    teacher[1] = teacher[1, :1]  # all in one place
    value, grad = run_impl(impl, student, teacher)
    readable = partial(distance_loss, impl='reference')
    expected, expected_grad = run(readable, student.double(), teacher.double())
    value_tolerance, grad_tolerance = TOLERANCE[dtype]
    assert grad.dtype == dtype
    assert_close(value, expected, value_tolerance)
    assert_close(grad, expected_grad, grad_tolerance)


# In matrices of one image: two images at once, or all with 1, 2 and 5 outer
# tokens to a slab. Without a limit all are one slab.
@pytest.mark.parametrize('limit', [2, 5, 10, 25])
@pytest.mark.parametrize('impl', FUSED)
def test_slabs_and_pieces_do_not_show(impl, limit, monkeypatch):
    pair = make_pair(5, 12, 6, 9)
    pair[0][1, 3] = pair[0][1, 5]
    whole = run_impl(impl, *pair)
    for name in ('CPU_BYTES', 'DEVICE_BYTES'):
        monkeypatch.setattr(ops.pieces, name, limit * 12 * 12 * 4)
    pieces = run_impl(impl, *pair)
    torch.testing.assert_close(pieces[0], whole[0], rtol=1e-6, atol=0)
    assert_close(pieces[1], whole[1], 1e-6)


def test_gradcheck_of_the_chunked_loss():
    student, teacher = make_pair(2, 6, 4, 5, torch.float64)
    student.requires_grad_()
    torch.autograd.gradcheck(
        lambda s: angle_loss(s, teacher, 'chunked'), (student,)
    )


@pytest.mark.parametrize('impl', IMPLS)
def test_coincident_tokens_send_no_gradient(impl):
    student, teacher = make_pair(2, 8)
    student[0, :] = student[0, :1]  # all in one place
    value, grad = run_impl(impl, student, teacher)
    assert torch.isfinite(value)
    assert torch.isfinite(grad).all()
    assert not grad[0].any()
    assert grad[1].any()


@pytest.mark.parametrize('side', [0, 1])
@pytest.mark.parametrize('impl', IMPLS)
def test_duplicates_match_float64(impl, side):
    pair = make_pair(2, 9, 6, 7)
    pair[side][0, 3] = pair[side][0, 5]
    pair[side][1, 1:4] = pair[side][1, :1]
    value, grad = run_impl(impl, *pair)
    expected, expected_grad = run(slow_loss, *pair)
    assert_close(value, expected, 5e-5)
    assert_close(grad, expected_grad, 5e-5)


@pytest.mark.parametrize('impl', IMPLS)
def test_identical_inputs_give_exactly_zero(impl):
    tokens, _ = make_pair(3, 33)
    value, grad = run_impl(impl, tokens, tokens)
    assert value.item() == 0
    assert not grad.any()


@pytest.mark.parametrize('scale', [1e-12, 1e12])
@pytest.mark.parametrize('impl', FUSED)
def test_scale_and_offset_leave_value_and_gradient(impl, scale):
    student, teacher = make_pair(2, 10)
    value, grad = run_impl(impl, student, teacher)
    scaled, scaled_grad = run_impl(impl, scale * (student + 8), teacher)
    torch.testing.assert_close(scaled, value, rtol=1e-3, atol=0)
    assert_close(scaled_grad * scale, grad, 1e-3)


@pytest.mark.parametrize('impl', IMPLS)
def test_not_a_number_is_not_hidden(impl):
    student, teacher = make_pair(2, 6)
    student[1, 2, 3] = float('nan')
    assert angle_loss(student, teacher, impl).isnan()


@pytest.mark.parametrize('impl', FUSED)
def test_no_gradient_is_computed_unasked(impl, monkeypatch):
    kind, _, form = impl.rpartition(' ')
    name = f'{kind or "angle"}_{form}'
    relation, asked = relation_fused.RELATIONS[name], []

    def terms(squared, inverse, wanted):
        asked.append(wanted)
        return relation.terms(squared, inverse, wanted)

    monkeypatch.setitem(
        relation_fused.RELATIONS, name, relation._replace(terms=terms)
    )
    student, teacher = make_pair(2, 6)
    student.requires_grad_()
    teacher.requires_grad_()
    loss = select(impl)
    with_grad = loss(student, teacher)
    with torch.no_grad():
        without = loss(student, teacher)
    assert not without.requires_grad
    assert without == with_grad
    assert not loss(student.detach(), teacher).requires_grad
    assert asked == [True, False, False]
    with_grad.backward()
    assert teacher.grad is None


@pytest.mark.parametrize('relation', ['angle_chunked', 'distance_chunked'])
def test_no_matrix_is_kept_for_a_gradient_unasked(relation):
    _, *kept = relation_fused.relation_forward(
        *make_pair(2, 6), relation, False
    )
    assert not any(matrix.numel() for matrix in kept)


@pytest.mark.parametrize('impl', FUSED)
def test_autocast_changes_nothing(impl):
    pair = make_pair(2, 16)
    expected = run_impl(impl, *pair)
    with torch.autocast(DEVICE, torch.bfloat16):
        actual = run_impl(impl, *pair)
    assert actual[0].dtype == torch.float32
    assert torch.equal(actual[0], expected[0])
    assert torch.equal(actual[1], expected[1])


@pytest.mark.parametrize('impl', FUSED)
def test_matmul_precision_changes_nothing_and_is_put_back(impl):
    pair = make_pair(2, 16, 64, 64)
    expected = run_impl(impl, *pair)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision('medium')
    try:
        actual = run_impl(impl, *pair)
        assert torch.get_float32_matmul_precision() == 'medium'
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(actual[0], expected[0])
    assert torch.equal(actual[1], expected[1])


@pytest.mark.parametrize('impl', FUSED)
def test_second_derivative_raises(impl):
    student, teacher = make_pair(1, 5)
    student.requires_grad_()
    loss = select(impl)(student, teacher)
    (grad,) = torch.autograd.grad(loss, student, create_graph=True)
    assert grad.any()
    with pytest.raises(RuntimeError, match='differentiable once.*reference'):
        grad.sum().backward()


@pytest.mark.parametrize('reentrant', [True, False])
@pytest.mark.parametrize('impl', FUSED)
def test_activation_checkpointing(impl, reentrant):
    pair = make_pair(2, 9)
    expected = run_impl(impl, *pair)
    actual = run(
        lambda s, t: checkpoint(
            select(impl), s * 1, t, use_reentrant=reentrant
        ),
        *pair,
    )
    assert torch.equal(actual[0], expected[0])
    assert torch.equal(actual[1], expected[1])


def compare_compiled(impl, backend):
    pair = make_pair(2, 9)
    torch.compiler.reset()

    def surrounded(student, teacher):
        student, teacher = torch.tanh(student), teacher.cos()
        angle = angle_loss(student, teacher, impl)
        readable = distance_loss(student, teacher, impl='reference')
        return 2 * angle + distance_loss(student, teacher) + 3 * readable

    expected = run(surrounded, *pair)
    compiled = torch.compile(surrounded, backend=backend, fullgraph=ONE_GRAPH)
    torch.testing.assert_close(run(compiled, *pair), expected)


@pytest.mark.parametrize('backend', ['eager', 'aot_eager'])
@pytest.mark.parametrize('impl', [*IMPLS, 'auto'])
def test_compiled_surroundings_stay_one_graph(impl, backend):
    compare_compiled(impl, backend)


@pytest.mark.skipif(
    not ONE_GRAPH or shutil.which('g++') is None,
    reason='needs PyTorch 2.4 and a C++ compiler',
)
def test_surroundings_compiled_to_machine_code_give_the_same():
    compare_compiled('auto', 'inductor')


@pytest.mark.skipif(
    not hasattr(torch.library, 'opcheck'),
    reason='PyTorch before 2.4 has no such checks',
)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
@pytest.mark.parametrize('wanted', [True, False])
@pytest.mark.parametrize('channels_first', [True, False])
@pytest.mark.parametrize('relation', ['angle_chunked', 'distance_chunked'])
def test_operators_keep_to_their_contract(
    relation, channels_first, dtype, wanted
):
    """Schema, shape rules and tracing, by PyTorch's own checks."""
    student, teacher = make_pair(2, 9, dtype=dtype)
    if channels_first:
        student = student.mT.contiguous().mT
    operators = torch.ops.serkd_mm
    checks = ('test_schema', 'test_faketensor')
    arguments = (student, teacher, relation, wanted)
    torch.library.opcheck(
        operators.relation_forward.default, arguments, test_utils=checks
    )
    _, *kept = operators.relation_forward(student, teacher, relation, True)
    torch.library.opcheck(
        operators.relation_backward.default,
        (student, *kept, kept[0].new_tensor(2.0)),
        test_utils=checks,
    )


@pytest.mark.parametrize('impl', FUSED)
def test_strided_inputs_and_gradient(impl):
    student, teacher = make_pair(3, 10, 8, 8)
    expected = run_impl(impl, student, teacher)
    strided = student.transpose(0, 2).contiguous().transpose(0, 2)
    actual = run_impl(impl, strided, teacher.mT.contiguous().mT)
    assert_close(actual[0], expected[0], 1e-6)
    assert_close(actual[1], expected[1], 1e-6)


class Watch(TorchDispatchMode):
    """Largest result of any operator; reading a value on the host fails."""

    def __init__(self):
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not torch.ops.aten._local_scalar_dense.default
        result = func(*args, **(kwargs or {}))
        for leaf in tree_flatten(result)[0]:
            if isinstance(leaf, torch.Tensor):
                size = leaf.untyped_storage().nbytes() // leaf.itemsize
                self.largest = max(self.largest, size)
        return result


def forward_backward(student, teacher, relation):
    """Run a loss; a mode does not see into operators, so call their code."""
    with torch.no_grad():
        loss, *kept = relation_fused.relation_forward(
            student, teacher, relation, True
        )
        relation_fused.relation_backward(student, *kept, loss)


def test_chunked_has_no_cubic_tensor(monkeypatch):
    batch, num = 4, 64
    for name in ('CPU_BYTES', 'DEVICE_BYTES'):
        monkeypatch.setattr(ops.pieces, name, batch * num**2 * 4)
    student, teacher = make_pair(batch, num, 16, 24)
    student.requires_grad_()
    with Watch() as watch:
        forward_backward(student, teacher, 'angle_chunked')
    # The slabs: two sides, two work spaces.
    assert 0 < watch.largest <= 4 * batch * num**2


@pytest.mark.parametrize('num', [1, 20])
@pytest.mark.parametrize('relation', ['angle_chunked', 'distance_chunked'])
def test_nothing_is_read_on_the_host(relation, num):
    student, teacher = make_pair(2, num)
    with Watch():
        forward_backward(student, teacher, relation)


@pytest.mark.parametrize('num', [1, 20])
@pytest.mark.parametrize('loss', [angle_loss, distance_loss])
def test_the_readable_losses_read_nothing_on_the_host(loss, num):
    student, teacher = make_pair(2, num)
    student.requires_grad_()
    with Watch():
        loss(student, teacher, impl='reference').backward()


def test_unknown_impl_lists_the_valid_ones():
    pair = make_pair(1, 4)
    with pytest.raises(ValueError, match="'auto'.*'chunked'.*got 'fast'"):
        angle_loss(*pair, impl='fast')


def test_auto_takes_chunked_where_triton_cannot_run(monkeypatch):
    monkeypatch.setattr(ops, 'triton_installed', lambda: True)
    assert ops.select_impl('auto', torch.zeros(1, 4, 4)) == 'chunked'
    for impl in ops.IMPLS[1:]:
        assert ops.select_impl(impl, torch.zeros(1, 4, 4)) == impl


class OnCuda:
    is_cuda = True
    device = 'cuda:0'

    def __init__(self, num, dtype=torch.float32):
        self.shape = (2, num, 8)
        self.dtype = dtype


@pytest.mark.parametrize('loss', [angle_loss, distance_loss])
def test_auto_takes_what_torch_func_can_transform(loss):
    student = torch.randn(3, 2, 5, 4)
    teacher = torch.randn(3, 2, 5, 6)
    expected = student.clone().requires_grad_()
    values = torch.stack([loss(s, t) for s, t in zip(expected, teacher)])
    values.sum().backward()

    mapped = torch.vmap(torch.func.grad_and_value(loss))
    gradients, found = mapped(student, teacher)

    torch.testing.assert_close(found, values.detach())
    torch.testing.assert_close(gradients, expected.grad)


def test_auto_on_cuda(monkeypatch):
    monkeypatch.setattr(ops, 'triton_installed', lambda: True)
    monkeypatch.setattr(ops, 'compiler_found', lambda: True)
    found = SimpleNamespace(major=7)
    monkeypatch.setattr(
        torch.cuda, 'get_device_properties', lambda device: found
    )
    assert ops.select_impl('auto', OnCuda(256)) == 'triton'
    assert ops.select_impl('auto', OnCuda(257)) == 'chunked'
    double = OnCuda(49, torch.float64)
    assert ops.select_impl('auto', double) == 'chunked'
    assert ops.select_impl('auto', OnCuda(49), double) == 'chunked'
    found.major = 6
    assert ops.select_impl('auto', OnCuda(49)) == 'chunked'
    found.major = 7


@pytest.mark.parametrize(
    ('missing', 'said'),
    [
        ('compiler_found', 'a C compiler .* Python.h'),
        ('triton_installed', 'the package triton, 3'),
    ],
)
def test_auto_says_once_what_triton_needs_on_cuda(missing, said, monkeypatch):
    for name in ('triton_installed', 'compiler_found'):
        monkeypatch.setattr(ops, name, lambda found=name != missing: found)
    monkeypatch.setattr(
        torch.cuda, 'get_device_properties', lambda _: SimpleNamespace(major=7)
    )
    ops._say_what_triton_needs.cache_clear()
    with pytest.warns(UserWarning, match=f"'triton' needs {said}"):
        assert ops.select_impl('auto', OnCuda(49)) == 'chunked'
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert ops.select_impl('auto', OnCuda(49)) == 'chunked'
    ops._say_what_triton_needs.cache_clear()


def look_for_triton(monkeypatch, origin=None, tools=(), cc=None):
    """What a fresh interpreter would find out about Triton."""
    spec = origin and SimpleNamespace(origin=str(origin))
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: spec)
    monkeypatch.setattr(shutil, 'which', lambda name: name in tools or None)
    monkeypatch.delenv('CC', raising=False)
    if cc is not None:
        monkeypatch.setenv('CC', cc)
    return runpy.run_path(triton_build.__file__)


@pytest.mark.parametrize(
    ('version', 'expected'),
    [('3.0.0', True), ('3.6.0+rocm7', True), ('2.3.1', False), (None, False)],
)
def test_triton_counts_from_its_third_version(
    version, expected, monkeypatch, tmp_path
):
    module = tmp_path / '__init__.py'
    if version is not None:
        module.write_text(f"import os\n\n__version__ = '{version}'\n")
    found = look_for_triton(monkeypatch, version and module)
    assert found['triton_installed']() is expected


def test_a_module_without_a_version_and_a_bare_folder_are_no_triton(
    monkeypatch, tmp_path
):
    module = tmp_path / '__init__.py'
    module.touch()
    assert not look_for_triton(monkeypatch, module)['triton_installed']()
    folder = SimpleNamespace(origin=None)
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: folder)
    found = runpy.run_path(triton_build.__file__)
    assert not found['triton_installed']()


def test_the_version_read_is_that_of_the_module():
    triton = pytest.importorskip('triton')
    major = int(triton.__version__.split('.')[0])
    assert triton_build._major_version() == major


@pytest.mark.parametrize(
    ('tools', 'cc', 'header', 'expected'),
    [
        (['gcc'], None, True, True),
        (['clang'], None, True, True),
        ([], 'mycc', True, True),
        ([], None, True, False),
        (['gcc'], None, False, False),
    ],
)
def test_a_compiler_and_the_header_are_both_needed(
    tools, cc, header, expected, monkeypatch, tmp_path
):
    if header:
        (tmp_path / 'Python.h').touch()
    monkeypatch.setattr(sysconfig, 'get_path', lambda name: str(tmp_path))
    found = look_for_triton(monkeypatch, tools=tools, cc=cc)
    assert found['compiler_found']() is expected


@pytest.mark.parametrize('impl', ['chunked', 'triton'])
@pytest.mark.parametrize('loss', [angle_loss, distance_loss])
def test_torch_func_and_a_fast_path_are_refused_together(loss, impl):
    student, teacher = torch.randn(2, 2, 5, 4)
    transformed = torch.func.grad(lambda s: loss(s, teacher, impl=impl))
    with pytest.raises(RuntimeError, match=f"{impl}' takes .*'reference'"):
        transformed(student)


@pytest.mark.parametrize('loss', [angle_loss, distance_loss])
def test_torch_func_may_ask_for_the_readable_loss(loss):
    student, teacher = torch.randn(2, 2, 5, 4)
    readable = partial(loss, teacher=teacher, impl='reference')
    found = torch.func.grad(readable)(student)
    torch.testing.assert_close(
        found, run(partial(loss, impl='chunked'), student, teacher, 1)[1]
    )


@pytest.mark.parametrize('normalize', ['image', 'batch'])
def test_an_unknown_impl_is_refused_in_either_normalisation(normalize):
    with pytest.raises(ValueError, match="got 'fast'"):
        distance_loss(*make_pair(1, 4), normalize, impl='fast')


@pytest.mark.parametrize('loss', [angle_loss, distance_loss])
def test_triton_says_what_is_missing(loss, monkeypatch):
    pair = make_pair(1, 4)
    monkeypatch.setattr(triton_build, 'triton_installed', lambda: False)
    with pytest.raises(RuntimeError, match='package triton.*chunked'):
        loss(*pair, impl='triton')
    monkeypatch.setattr(triton_build, 'triton_installed', lambda: True)
    monkeypatch.setattr(distances_triton, '_compiled', lambda: (None, False))
    pair = [side.cpu() for side in pair]
    with pytest.raises(RuntimeError, match='CUDA device.*cpu.*chunked'):
        loss(*pair, impl='triton')


def test_kernels_run_again_after_a_check_that_failed():
    def check_that_fails():
        with ops.without_kernels():
            assert not relation_triton._kernels
            raise KeyError

    with pytest.raises(KeyError):
        check_that_fails()
    assert relation_triton._kernels


@pytest.mark.parametrize('loss', [angle_loss, distance_loss])
def test_triton_names_its_limits(loss):
    with pytest.raises(ValueError, match='256 tokens.*K = 257.*chunked'):
        loss(*make_pair(1, 257, 2, 2), impl='triton')
    with pytest.raises(TypeError, match='float64.*chunked'):
        loss(*make_pair(1, 4, dtype=torch.float64), impl='triton')


@pytest.mark.parametrize(
    'loss',
    [
        ops.angle_loss_chunked,
        ops.angle_loss_triton,
        ops.distance_loss_chunked,
        ops.distance_loss_triton,
    ],
)
def test_shape_errors_come_first(loss):
    with pytest.raises(ValueError, match='same number of images'):
        loss(torch.zeros(2, 4, 4), torch.zeros(2, 5, 4))
    with pytest.raises(TypeError, match='student must be floating point'):
        loss(torch.zeros(2, 4, 4).long(), torch.zeros(2, 4, 4))


@needs_triton
def test_triton_gives_the_same_bits_again():
    pair = make_pair(3, 21)
    first, second = (run_impl('triton', *pair) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


@needs_triton
def test_triton_at_its_largest_size():
    pair = make_pair(1, relation_triton.MAX_TOKENS, 4, 4)
    value, grad = run_impl('triton', *pair)
    expected, expected_grad = run(slow_loss, *pair)
    assert_close(value, expected, 5e-5)
    assert_close(grad, expected_grad, 5e-5)


@pytest.mark.skipif(not INSTALLED, reason='Triton 3 is not installed')
@pytest.mark.skipif(INTERPRETED, reason='this run has the interpreter')
def test_triton_in_its_interpreter():
    files = [__file__, Path(__file__).with_name('test_pair_distances.py')]
    process = subprocess.run(
        [sys.executable, '-m', 'pytest', '-q', '-k', 'triton', *files],
        env={**os.environ, 'TRITON_INTERPRET': '1'},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.returncode == 0, process.stdout[-4000:]
