"""Tests that need a GPU: streams, graphs, settings, sizes. Skipped elsewhere."""

from __future__ import annotations

import pytest
import torch
from cases import BY_NAME, make_tensors

import pconv_cuda
from pconv_cuda import PConvUNet, ops, smooth
from pconv_cuda.functional import smooth_fill
from pconv_cuda.masks import draw_mask
from pconv_cuda.models import load_network
from pconv_cuda.ops import extension

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or extension.cuda_module() is None, reason="needs a GPU and the CUDA kernels"
)


def layer_and_input(dtype: torch.dtype = torch.bfloat16) -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    layer = pconv_cuda.PartialConv2d(32, 48, 3, padding=1, return_mask=True).to("cuda", dtype)
    x = torch.randn(2, 32, 20, 24, device="cuda", dtype=dtype).contiguous(memory_format=torch.channels_last)
    return layer, x, torch.rand(2, 1, 20, 24, device="cuda") > 0.4


def test_on_a_stream_of_its_own_and_under_a_graph() -> None:
    layer, x, mask = layer_and_input()
    expected = layer(x, mask)[0]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        there = layer(x, mask)[0]
    stream.synchronize()
    assert torch.equal(there, expected)
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        captured = layer(x, mask)[0]
    x.neg_()
    graph.replay()
    assert torch.equal(captured, layer(x, mask)[0])


def test_compiled_with_cuda_graphs() -> None:
    layer, x, mask = layer_and_input()
    compiled = torch.compile(layer, fullgraph=True, mode="reduce-overhead")
    for _ in range(3):
        torch.compiler.cudagraph_mark_step_begin()
        assert torch.equal(compiled(x, mask)[0].clone(), layer(x, mask)[0])


def test_the_same_bits_in_every_run() -> None:
    layer, x, mask = layer_and_input()
    x.requires_grad_()

    def gradients() -> list[torch.Tensor]:
        return list(torch.autograd.grad(layer(x, mask)[0].square().sum(), [x, *layer.parameters()]))

    first = gradients()
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(first, gradients(), strict=True))


@pytest.mark.parametrize("compiled", [False, True])
def test_each_setting_of_tf32(compiled: bool) -> None:
    layer, x, mask = layer_and_input(torch.float32)
    truth = layer.double()(x.double(), mask)[0]
    layer.float()
    call = torch.compile(layer, fullgraph=True) if compiled else layer
    before, errors = torch.backends.cudnn.conv.fp32_precision, {}
    try:
        for setting in ("ieee", "tf32", "ieee"):
            torch.backends.cudnn.conv.fp32_precision = setting
            errors[setting] = (call(x, mask)[0] - truth).abs().max().item()
    finally:
        torch.backends.cudnn.conv.fp32_precision = before
    assert errors["ieee"] < 1e-5 < errors["tf32"] < 2e-2


def test_nothing_synchronises() -> None:
    layer, x, mask = layer_and_input()
    layer(x, mask)
    torch.cuda.set_sync_debug_mode("error")
    try:
        layer(x, mask)[0].sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("fused", [False, True])
def test_the_network_under_a_graph_without_waiting_and_with_the_same_bits(fused: bool) -> None:
    """Encoder layers, decoder stages in phases and direct, and the last stage, in one graph."""
    torch.manual_seed(0)
    model = PConvUNet(levels=4, width=16).cuda().to(torch.bfloat16, memory_format=torch.channels_last).eval()
    image = torch.randn(2, 3, 128, 128, device="cuda", dtype=torch.bfloat16)
    mask = torch.rand(2, 1, 128, 128, device="cuda") > 0.3
    if fused:
        model = model.fuse()
    else:
        gradients = [torch.autograd.grad(model(image, mask)[0].sum(), list(model.parameters())) for _ in range(2)]
        assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))
    with torch.no_grad():
        model(image, mask)
        torch.cuda.set_sync_debug_mode("error")
        try:
            model(image, mask)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = model(image, mask)[0]
        image.neg_()
        graph.replay()
        assert torch.equal(captured, model(image, mask)[0])


def test_the_smooth_fill_is_the_cpus_and_runs_under_a_graph() -> None:
    torch.manual_seed(0)
    x, mask = torch.rand(2, 3, 150, 211), torch.from_numpy(draw_mask(211, 0, "mixed", (0.3, 0.4))[:150].copy())
    mask = mask[None, None]
    expected, here, valid = smooth_fill(x, mask), x.cuda(), mask.cuda()
    torch.testing.assert_close(smooth_fill(here, valid).cpu(), expected, rtol=0, atol=2e-4)
    options = (smooth.TENSION, smooth.TOLERANCE, smooth.MAX_ITERATIONS)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.ops.pconv_cuda.smooth_fill(here, valid, *options)
    stream.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = torch.ops.pconv_cuda.smooth_fill(here, valid, *options)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    here.neg_()
    graph.replay()
    torch.testing.assert_close(captured.cpu(), smooth_fill(-x, mask), rtol=0, atol=2e-4)


def test_the_packaged_network_gives_the_cpus_picture() -> None:
    torch.manual_seed(0)
    network = load_network("photo").eval()
    x, mask = torch.rand(1, 3, 90, 131), torch.from_numpy(draw_mask(131, 1, "mixed", (0.2, 0.3))[:90].copy())
    mask = mask[None, None]
    with torch.no_grad():
        image = network.normalize(x)
        fill = smooth_fill(image, mask)
        expected = network(image, mask, fill)[0]
        found = network.cuda()(image.cuda(), mask.cuda(), fill.cuda())[0].cpu()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_more_than_2_to_the_31_elements() -> None:
    free, _ = torch.cuda.mem_get_info()
    if free < 24 << 30:
        pytest.skip("needs 24 GiB of free GPU memory")
    n, c, side = 9, 16, 4096  # 2.4e9 elements in and out
    x = torch.empty(n, c, side, side, device="cuda", dtype=torch.bfloat16, memory_format=torch.channels_last)
    for image in x:
        image.normal_()
    mask = torch.rand(n, 1, side, side, device="cuda") > 0.25
    weight = torch.randn(c, c, 3, 3, device="cuda", dtype=torch.bfloat16)
    window = [[1, 1], [1, 1], [1, 1], 1]
    y, new_mask, _ = ops.partial_conv2d(x, mask, None, None, weight, None, *window)
    for image in (0, n - 1):
        one = slice(image, image + 1)
        alone, alone_new_mask, _ = ops.partial_conv2d(x[one], mask[one], None, None, weight, None, *window)
        assert torch.equal(y[one], alone) and torch.equal(new_mask[one], alone_new_mask)


def test_a_tensor_on_another_device_is_refused_by_name() -> None:
    t = make_tensors(BY_NAME["plain3x3"]).to(torch.float32)
    with pytest.raises((RuntimeError, ValueError), match="weight"):
        ops.partial_conv2d(t.input.cuda(), t.mask.cuda(), None, None, t.weight, None, [1, 1], [1, 1], [1, 1], 1)
    torch.cuda.synchronize()
