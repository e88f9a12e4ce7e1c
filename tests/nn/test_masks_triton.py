"""The Triton kernel of the masks: on a GPU if there is one, else in Triton's interpreter."""

import importlib
import os
import subprocess
import sys
from itertools import accumulate

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from acluster.nn import _masks
from tests.nn.pooling.test_triton import DEVICE, interpreter  # noqa: F401

# Triton reads the variable when a kernel is defined, which is when its module is imported.
with pytest.MonkeyPatch.context() as patch:
    if DEVICE == "cpu":
        assert "acluster.nn._masks_kernels" not in sys.modules
        patch.setenv("TRITON_INTERPRET", "1")
    importlib.import_module("acluster.nn._masks_kernels")


def below_by_kernel(logits, lengths, k):
    offsets = torch.tensor([0, *accumulate(lengths)], device=DEVICE)
    return _masks._below_highest_triton(logits.to(DEVICE), offsets, k).cpu()


def below_by_sorting(logits, lengths, k):
    """Return the mask from the sorted logits of every set and unit."""
    masks = []
    for scores in logits.float().split(lengths):
        kept = scores.sort(dim=0, descending=True).values[min(k, len(scores)) - 1]
        masks.append(scores < kept)
    return torch.cat(masks)


@pytest.mark.parametrize(
    ("k", "dtype"),
    [(1, torch.float32), (1000, torch.float32), (5, torch.float16), (5, torch.bfloat16)],
    ids=str,
)
def test_kernel_masks_what_sorting_masks(k, dtype):
    lengths = [1, 50, 7]
    logits = torch.randn(sum(lengths), 19, generator=torch.Generator().manual_seed(0)).to(dtype)
    found = below_by_kernel(logits, lengths, k)
    assert torch.equal(found, below_by_sorting(logits, lengths, k))
    assert found.any() == (k < 50)


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    k=st.integers(1, 10),
    numbers=st.lists(
        st.sampled_from([-3e38, -1.5, -1e-40, -0.0, 0.0, 1e-40, 2.0, 3e38]), min_size=7, max_size=7
    ),
)
@settings(max_examples=8, deadline=None)
def test_kernel_keeps_ties_zeros_of_both_signs_and_extremes(lengths, k, numbers):
    places = torch.arange(2 * sum(lengths)).reshape(-1, 2) * 5 % 7
    logits = torch.tensor(numbers)[places]
    found = below_by_kernel(logits, lengths, k)
    assert torch.equal(found, below_by_sorting(logits, lengths, k))


def test_kernel_leaves_rows_beyond_the_last_set_alone():
    logits = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    found = below_by_kernel(logits, [4, 5], 2)
    assert torch.equal(found[:9], below_by_sorting(logits[:9], [4, 5], 2))
    assert not found[9:].any()


# Runs in a separate process, because a process that imported the interpreter cannot compile.
COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from acluster.nn import _masks, _masks_kernels
kernel = _masks_kernels.below_highest_kernel
types = {"logits": "*fp32", "offsets": "*i64", "below": "*u8", "k": "i32"}
own = {"N": 64, "BLOCK_N": _masks._UNITS_PER_TILE, "BLOCK_L": _masks._MAX_ROWS_PER_TILE}
types = {key: "constexpr" if key in own else types[key] for key in kernel.arg_names}
triton.compile(ASTSource(kernel, types, own), target=GPUTarget("cuda", 90, 32))
"""


def test_kernel_compiles(tmp_path):
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    subprocess.run([sys.executable, "-W", "error", "-c", COMPILE], check=True, env=environment)
