"""Batches that a CPU convolves a few images at a time (csrc/torch/batch_parts.h): values, gradients, memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from cases_nd import CaseNd, tensors_of
from conftest import assert_as_good_as_torch
from test_layers_nd import gradients, stock

# Five images of 14 million products: on one thread two parts, of two and of three images (20 million are worth a call).
PARTED = [
    CaseNd("series", (12288,), (9,), 5, 8, 16, padding=(4,)),
    CaseNd("series_up", (12288,), (4,), 5, 16, 16, stride=(2,), padding=(1,), transposed=True),
    CaseNd("plane", (97, 128), (3, 3), 5, 8, 16, padding=(1, 1)),
    CaseNd("plane_strided", (193, 256), (3, 3), 5, 8, 16, stride=(2, 2), padding=(1, 1), bias=False),
    CaseNd("plane_groups", (97, 128), (3, 3), 5, 16, 16, padding=(1, 1), groups=2, mask="channels"),
    CaseNd("plane_one_mask", (97, 128), (3, 3), 5, 8, 16, padding=(1, 1), mask="batch1"),
    CaseNd("plane_no_mask", (97, 128), (3, 3), 5, 8, 16, padding=(1, 1), mask="none"),
    CaseNd("plane_up", (97, 65), (4, 4), 5, 16, 8, stride=(2, 2), padding=(1, 1), transposed=True),
    CaseNd("plane_up_groups", (97, 65), (4, 4), 5, 16, 16, (2, 2), (1, 1), groups=2, transposed=True, mask="channels"),
    CaseNd("volume", (9, 32, 41), (3, 3, 3), 5, 8, 8, padding=(1, 1, 1)),
    CaseNd("volume_up", (9, 16, 25), (4, 4, 4), 5, 8, 8, (2, 2, 2), (1, 1, 1), transposed=True, mask="batch1"),
]
LAYOUTS = {2: torch.channels_last, 3: torch.channels_last_3d}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("case", PARTED, ids=lambda case: case.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_values_and_gradients(case: CaseNd, dtype: torch.dtype, channels_last: bool) -> None:
    layout = LAYOUTS.get(case.axes) if channels_last else None
    tensors = tensors_of(case, dtype)
    ours = gradients(case, tensors, dtype, layout, case.call, "cpu")
    clean = [tensors[0].nan_to_num(), *tensors[1:]]  # autograd through a select keeps NaN times zero
    torchs = gradients(case, clean, dtype, layout, stock(case), "cpu")
    truth = gradients(case, clean, torch.float64, None, stock(case), "cpu")
    # The library adds up the weight's gradient in another order where a volume is channels_last.
    sizes = [t if t is None or t.dtype == torch.bool else t.abs() for t in clean]
    sums = gradients(case, sizes, torch.float64, None, stock(case), "cpu")
    for name, own, other, true, most in zip(("y", "dx", "dw", "db"), ours, torchs, truth, sums, strict=False):
        loose = most if name == "dw" and channels_last and dtype == torch.float32 else None
        assert_as_good_as_torch(own, other, true, f"{case.name} {name}", loose)
        assert own.dtype == dtype
    if layout is not None:
        assert ours[0].is_contiguous(memory_format=layout) and ours[1].is_contiguous(memory_format=layout)


@pytest.mark.parametrize("wanted", ["input", "weight", "bias"])
@pytest.mark.parametrize("case", [PARTED[0], PARTED[2]], ids=lambda case: case.name)
def test_one_gradient_alone(case: CaseNd, wanted: str) -> None:
    x, mask, w, b, grad = tensors_of(case, torch.float32)
    every = [x, w, b]
    index = ("input", "weight", "bias").index(wanted)
    alone = [leaf.clone().requires_grad_(i == index) for i, leaf in enumerate(every)]
    all_of_them = [leaf.clone().requires_grad_() for leaf in every]
    for leaves in (alone, all_of_them):
        case.call(leaves[0], mask, leaves[1], leaves[2])[0].backward(grad.float())
    assert torch.equal(alone[index].grad, all_of_them[index].grad)
    assert all(leaf.grad is None for i, leaf in enumerate(alone) if i != index)


@pytest.mark.parametrize("case", [PARTED[0], PARTED[2]], ids=lambda case: case.name)
def test_a_batch_and_its_images_alone_agree(case: CaseNd) -> None:
    x, mask, w, b, _ = tensors_of(case, torch.float32)
    whole, new_mask = case.call(x, mask, w, b)
    for n in range(case.n):
        alone, own_mask = case.call(x[n : n + 1], mask[n : n + 1], w, b)
        torch.testing.assert_close(alone[0], whole[n], rtol=1e-4, atol=1e-4)
        assert torch.equal(own_mask[0], new_mask[n])


def test_second_derivatives() -> None:
    """The backward's own derivative runs in parts too: against the same operators in float64."""
    case = replace(PARTED[2], n=3)
    x, mask, w, _, grad = tensors_of(case, torch.float32)
    found = []
    for dtype in (torch.float32, torch.float64):
        leaves = [x.nan_to_num().to(dtype).requires_grad_(), w.to(dtype).requires_grad_()]
        y = case.call(leaves[0], mask, leaves[1], None)[0]
        first = torch.autograd.grad(y, leaves, grad.to(dtype), create_graph=True)
        found.append(torch.autograd.grad(sum((g * g).sum() for g in first), leaves))
    for ours, truth in zip(*found, strict=True):
        torch.testing.assert_close(ours.double(), truth, rtol=1e-4, atol=1e-5 * truth.abs().max().item())


MEMORY = """
import resource, torch
from pconv_cuda.functional import partial_conv2d
torch.set_num_threads(1)
x, w = torch.randn(8, 16, 512, 512), torch.randn(16, 16, 3, 3)
mask = torch.rand(8, 1, 512, 512) > 0.3
gradient = torch.randn_like(x)
def peak(images, backward):
    leaves = [x[:images].requires_grad_(backward), w.requires_grad_(backward)]
    y = partial_conv2d(leaves[0], mask[:images], w, None, 1, 1)[0]
    if backward:
        torch.autograd.grad(y, leaves, gradient[:images])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
print(*(peak(images, backward) for backward in (False, True) for images in (1, 8)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's count of resident pages")
def test_the_memory_of_a_batch() -> None:
    """Seven images more, of 16 MiB: output 112, with the gradient 224. It took 154 and 390; as one part 370 and 830."""
    run = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    one, eight, one_backward, eight_backward = map(int, run.stdout.split())
    assert eight - one <= 250, (one, eight)
    assert eight_backward - one <= 550, (one, one_backward, eight_backward)


KEPT = """
import re, torch
from pconv_cuda.functional import partial_conv2d
torch.set_num_threads(1)
def kept():  # MiB of the mappings that asked for large pages
    maps = open("/proc/self/smaps").read()
    sizes = re.findall(r"\\nRss: +(\\d+) kB(?:(?!VmFlags).)*VmFlags:[^\\n]* hg", maps, re.DOTALL)
    return sum(map(int, sizes)) / 1024
most = 0
for size in (256, 512, 724, 900, 1448, 700, 1024):  # 4 to 128 MiB of temporary memory
    x = torch.ones(1, 16, size, size)
    partial_conv2d(x, torch.rand(1, 1, size, size) > 0.3, torch.ones(4, 16, 3, 3), None, 1, 1)
    del x
    most = max(most, kept())
print(most)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's list of mappings")
def test_at_most_64_mib_of_temporary_memory_are_kept() -> None:
    run = subprocess.run([sys.executable, "-c", KEPT], capture_output=True, text=True, check=True)
    assert 32 <= float(run.stdout) <= 64
