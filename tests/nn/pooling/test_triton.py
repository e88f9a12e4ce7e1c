"""The Triton kernels against float64: on a GPU where there is one, else in Triton's interpreter.

The interpreter takes what the compiler may refuse, so the compiler has a test of its own, which
needs no GPU.
"""

import importlib.util
import os
import subprocess
import sys
from itertools import accumulate

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from acluster.nn.pooling import _triton, attend_plainly
from acluster.nn.pooling._triton import attend_triton, supports

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Ten roundings of the features' type, in which weights are too; of float32, a hundred.
TOLERANCES = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)
if DEVICE == "cpu" and "TRITON_INTERPRET" not in os.environ:
    # Triton looks when it is imported, which the optimisers of torch do: modules are
    # collected, and this line run, before the first test makes one.
    assert "triton" not in sys.modules, (
        "Triton was imported before it could be asked for its interpreter: set "
        "TRITON_INTERPRET=1, or name this file before the others."
    )
    os.environ["TRITON_INTERPRET"] = "1"
    _triton._hand_to_triton()
    del os.environ["TRITON_INTERPRET"]

needs_cuda = pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")


@pytest.fixture(autouse=True, scope="module")
def interpreter():
    """Triton looks again at every launch."""
    with pytest.MonkeyPatch.context() as patch:
        if DEVICE == "cpu":
            patch.setenv("TRITON_INTERPRET", "1")
        yield


def make_case(lengths, N, M, dtype=torch.float32, shifting=True, seed=0, spread=3.0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    values, logits = draw(sum(lengths), M).to(dtype), spread * draw(sum(lengths), N)
    offsets = torch.tensor([0, *accumulate(lengths)])
    shift = (draw(N, 1), draw(N, 1)) if shifting else None
    return [values, offsets, logits, shift], draw(len(lengths), N, M)


def averages(values, lengths, weights):
    sets = zip(values.split(lengths), weights.split(lengths), strict=True)
    return torch.stack([a.T @ rows for rows, a in sets])


def sizes_of_terms(case, direction):
    """How large the numbers are of which output and gradients are sums, where they cancel.

    For the gradients: those of weights, α and β where the norm is a constant. A set of one
    feature has gradients of 0, and what differs from 0 there is rounding alone. For all:
    how much αV and β outweigh αV + β.
    """
    values, offsets, logits, shift = (to_double(part) for part in case)
    lengths = offsets.diff().tolist()
    weights = torch.cat([scores.softmax(dim=0) for scores in logits.split(lengths)])
    leaves = [leaf.requires_grad_() for leaf in (weights, *(shift or ()))]
    output, cancelled = averages(values, lengths, weights), 1.0
    if shift is not None:
        parts = torch.broadcast_tensors(shift[0] * output, shift[1])
        norms = [part.detach().norm(dim=-1, keepdim=True) for part in (*parts, sum(parts))]
        cancelled = ((norms[0] + norms[1]) / norms[2]).max().item()
        output = sum(parts) / (norms[2] * logits.shape[1] ** 0.5)
    gradients = torch.autograd.grad(output, leaves, direction.double())
    return [cancelled * tensor.abs().max().item() for tensor in (output, *gradients)]


def to_double(part):
    if isinstance(part, tuple):
        return tuple(map(to_double, part))
    return part.double() if part is not None and part.is_floating_point() else part


def output_and_gradients(function, case, direction, to):
    values, offsets, logits, shift = case
    learnt = [to(tensor).requires_grad_() for tensor in (logits, *(shift or ()))]
    output = function(to(values, learnt=False), offsets, learnt[0], tuple(learnt[1:]) or None)
    gradients = torch.autograd.grad(output, learnt, direction.to(output))
    return [tensor.cpu() for tensor in (output.detach(), *gradients)]


def ours(case, direction):
    return output_and_gradients(
        attend_triton, case, direction, lambda tensor, learnt=True: tensor.clone().to(DEVICE)
    )


def exact(case, direction):
    return output_and_gradients(
        attend_plainly, case, direction, lambda tensor, learnt=True: tensor.clone().double()
    )


def assert_exact(case, direction):
    results, expected = ours(case, direction), exact(case, direction)
    sizes = sizes_of_terms(case, direction)
    names = ("output", "of logits", "of alpha", "of beta")[: len(results)]
    tolerance = TOLERANCES[case[0].dtype]
    for name, got, wanted, size in zip(names, results, expected, sizes, strict=True):
        assert got.dtype == torch.float32
        error = (got.double() - wanted).abs().max().item()
        assert error <= tolerance * size, name


@pytest.mark.parametrize(
    ("programs", "shifting"),
    [(1, True), (512, True), (512, False)],
    ids=["whole sets", "shared sets", "unshifted"],
)
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize(
    ("lengths", "N", "M"),
    [
        ([25, 25, 25], 64, 130),
        ([1, 40, 7, 100], 17, 300),
        ([3, 1], 128, 50),
        ([1], 1, 1),
    ],
    ids=["equal", "ragged", "many units", "least"],
)
def test_output_and_gradients(lengths, N, M, programs, dtype, shifting, monkeypatch):
    monkeypatch.setattr(_triton, "_PROGRAMS", programs)
    assert_exact(*make_case(lengths, N, M, dtype, shifting))


@pytest.mark.parametrize(
    ("lengths", "N", "M", "dtype"),
    [
        ([25, 9], 17, 1536, torch.float16),
        ([2, 5000, 1], 2, 3, torch.float32),
        ([40, 2], 256, 20, torch.bfloat16),
    ],
    ids=str,
)
def test_large_sizes(lengths, N, M, dtype):
    assert_exact(*make_case(lengths, N, M, dtype))


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    N=st.integers(1, 70),
    M=st.integers(1, 140),
    dtype=st.sampled_from(list(TOLERANCES)),
    shifting=st.booleans(),
    seed=st.integers(0, 2**31 - 1),
)
@settings(max_examples=12, deadline=None)
def test_any_shape(lengths, N, M, dtype, shifting, seed):
    assert_exact(*make_case(lengths, N, M, dtype, shifting, seed))


def test_sets_far_apart_have_a_maximum_of_their_own():
    case, direction = make_case([5, 40, 3], N=4, M=20)
    case[2] = case[2].round()  # exact when moved
    near = ours(case, direction)
    case[2] += torch.tensor([1e4] * 5 + [-1e4] * 40 + [0.0] * 3)[:, None]
    for far, expected in zip(ours(case, direction), near, strict=True):
        assert torch.equal(far, expected)


def test_small_gradients_of_half_precision_features_do_not_vanish():
    # The mean loss of a batch has such gradients; float16 ends at 6e-8.
    case, direction = make_case([25, 10], N=8, M=64, dtype=torch.float16)
    large, small = ours(case, direction), ours(case, direction * 2.0**-40)
    for expected, got in zip(large[1:], small[1:], strict=True):
        torch.testing.assert_close(got * 2.0**40, expected)


def test_zero_outputs_have_finite_gradients():
    case, direction = make_case([4, 2], N=3, M=5)
    case[3] = (torch.zeros(3, 1), torch.zeros(3, 1))
    output, of_logits, of_alpha, of_beta = ours(case, direction)
    _, _, *expected = exact(case, direction)
    assert not output.any()
    assert not of_logits.any()
    for got, wanted in zip((of_alpha, of_beta), expected, strict=True):
        torch.testing.assert_close(got.double(), wanted, rtol=1e-5, atol=1e-5 * wanted.abs().max())


def test_same_bits_each_time():
    case, direction = make_case([25, 3, 60], N=17, M=70, dtype=torch.float16)
    for first, second in zip(ours(case, direction), ours(case, direction), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_logits_in_half_precision_give_their_type(dtype):
    (values, offsets, logits, shift), direction = make_case([9, 30], N=5, M=33, dtype=dtype)
    logits = logits.to(dtype)
    output, of_logits, *_ = ours((values, offsets, logits, shift), direction)
    expected, of_logits_expected, *_ = exact((values, offsets, logits, shift), direction)
    assert output.dtype == of_logits.dtype == dtype
    torch.testing.assert_close(output.double(), expected, rtol=0, atol=5e-3)
    bound = 2e-2 * of_logits_expected.abs().max().item()
    torch.testing.assert_close(of_logits.double(), of_logits_expected, rtol=0, atol=bound)


def test_only_a_shift_that_learns():
    (values, offsets, logits, shift), direction = make_case([9, 30], N=5, M=33)
    learnt = [tensor.to(DEVICE).requires_grad_() for tensor in shift]
    output = attend_triton(values.to(DEVICE), offsets, logits.to(DEVICE), tuple(learnt))
    gradients = torch.autograd.grad(output, learnt, direction.to(DEVICE))
    _, _, *expected = ours((values, offsets, logits, shift), direction)
    for got, wanted in zip(gradients, expected, strict=True):
        assert torch.equal(got.cpu(), wanted)


def test_strided_inputs():
    (values, offsets, logits, shift), direction = make_case([9, 30], N=5, M=33)
    expected = ours((values, offsets, logits, shift), direction)
    strided = (values.T.contiguous().T, offsets, logits.T.contiguous().T, shift)
    for got, wanted in zip(ours(strided, direction), expected, strict=True):
        assert torch.equal(got, wanted)


def test_backward_keeps_three_numbers_per_unit_and_set():
    (values, offsets, logits, shift), _ = make_case([9, 30], N=5, M=33)
    given = (values.to(DEVICE), offsets, logits.to(DEVICE).requires_grad_())
    shift = tuple(tensor.to(DEVICE) for tensor in shift)
    output = attend_triton(*given, shift)
    known = {tensor.data_ptr() for tensor in (*given, *shift, output)}
    kept = [t for t in output.grad_fn.saved_tensors if t is not None]
    own = [t for t in kept if t.data_ptr() not in known and t.dtype == torch.float32]
    assert sum(tensor.numel() for tensor in own) == 3 * 2 * 5


def test_cpu_tensors_and_strange_types_are_left_to_others():
    values, logits = torch.ones(3, 2), torch.ones(3, 4)
    assert not supports(values, logits)
    if DEVICE == "cuda":
        values, logits = values.cuda(), logits.cuda()
        assert supports(values, logits)
        assert supports(values.half(), logits)
        assert not supports(values.double(), logits)
        assert not supports(values.requires_grad_(), logits)


@needs_cuda
def test_in_a_cuda_graph():
    case, direction = make_case([25] * 9, N=8, M=64, dtype=torch.float16)
    expected = ours(case, direction)
    values, offsets, logits, shift = case
    values, offsets, direction = values.to(DEVICE), offsets.to(DEVICE), direction.to(DEVICE)
    learnt = [tensor.to(DEVICE).requires_grad_() for tensor in (logits, *shift)]

    def once():
        output = attend_triton(values, offsets, learnt[0], tuple(learnt[1:]))
        return [output, *torch.autograd.grad(output, learnt, direction)]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        once()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        recorded = once()
    for tensor in recorded:
        tensor.detach().fill_(torch.nan)
    graph.replay()
    for got, wanted in zip(recorded, expected, strict=True):
        assert torch.equal(got.detach().cpu(), wanted)


def test_importing_needs_no_triton():
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "from acluster.nn.pooling import _triton\n"
        "assert not _triton._INSTALLED"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# For a process of its own: the interpreter does not leave one that it is in.
COMPILE = """
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from acluster.nn.pooling import _triton as module

module._hand_to_triton()
N, M = 64, 1536
constants = {"N": N, "M": M, "OPERAND": triton.language.float16, "PRECISION": "tf32"}
for name in ("squares", "forward", "derivative", "softmax"):
    kernel = getattr(module, f"_{name}_kernel")
    blocks = module._blocks(2, torch.empty(50, M), N, backward=name in ("derivative", "softmax"))
    options = {key: blocks.pop(key) for key in ("num_stages", "enable_fp_fusion")}
    types = dict.fromkeys(kernel.arg_names, "*fp32")
    types |= {"values": "*fp16", "offsets": "*i64", "shares": "i32"}
    own = {key: value for key, value in (constants | blocks).items() if key in types}
    types = {key: "constexpr" if key in own else types[key] for key in kernel.arg_names}
    source = ASTSource(kernel, types, own)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    assert compiled.metadata.shared <= 64 * 1024, name  # three on an H100's processor
"""


def test_the_compiler_takes_the_kernels(tmp_path):
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    subprocess.run([sys.executable, "-W", "error", "-c", COMPILE], check=True, env=environment)
