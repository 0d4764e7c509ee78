"""torch's counter of operations: the numbers of ordinary convolutions, which torch counts itself."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pconv_cuda import PConvUNet, flops, ops
from pconv_cuda import nn as partial

flops.register()
flops.register()


def _count(work) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def _forward_and_backward(layer: nn.Module, *inputs: torch.Tensor) -> tuple[int, int]:
    output = []

    def forward() -> None:
        result = layer(*inputs)
        output.append(result[0] if isinstance(result, tuple) else result)

    return _count(forward), _count(lambda: output[0].sum().backward())


@pytest.mark.parametrize(
    "name", ["Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"]
)
@pytest.mark.parametrize("gradients", ["both", "input", "weight"])
def test_layers_count_as_ordinary_ones(name, gradients) -> None:
    arguments = {"in_channels": 4, "out_channels": 6, "kernel_size": 3, "stride": 2, "padding": 1}
    counts = []
    for cls in (getattr(nn, name), getattr(partial, f"Partial{name}")):
        layer = cls(**arguments).requires_grad_(gradients != "input")
        image = torch.rand(2, 4, *(7, 8, 9)[: int(name[-2])], requires_grad=gradients != "weight")
        masks = () if cls is getattr(nn, name) else (torch.rand(2, 1, *image.shape[2:]) > 0.3,)
        counts.append(_forward_and_backward(layer, image, *masks))
    assert counts[0] == counts[1] and min(counts[0]) > 0


def test_groups_count_once() -> None:
    # torch counts the weight's gradient of a grouped convolution as if it had one group
    layer = partial.PartialConv2d(4, 6, 3, padding=1, groups=2)
    image = torch.rand(2, 4, 7, 8, requires_grad=True)
    forward, backward = _forward_and_backward(layer, image, torch.rand(2, 1, 7, 8) > 0.3)
    assert forward == 2 * 2 * 7 * 8 * 6 * 2 * 9 and backward == 2 * forward


@pytest.mark.parametrize("needed", [(True, True), (True, False), (False, True)])
def test_a_stage_counts_as_the_convolution_of_the_joined(needed) -> None:
    low, skip = (
        torch.rand(2, *shape, requires_grad=asks) for shape, asks in zip(((5, 4, 3), (3, 8, 6)), needed, strict=True)
    )
    stage = partial.PartialConvUpCat2d(5, 3, 7, bias=False)
    masks = torch.rand(2, 1, 4, 3) > 0.3, torch.rand(2, 1, 8, 6) > 0.3
    forward, backward = _forward_and_backward(stage, low, masks[0], skip, masks[1])
    joined = 2 * 2 * 8 * 6 * 7 * 8 * 9
    assert forward == joined and backward == joined + joined // 8 * (5 * needed[0] + 3 * needed[1])


def test_a_network_counts_as_its_plain_twin() -> None:
    counts = []
    for conv in ("partial", "plain"):
        network = PConvUNet(levels=3, width=4, conv=conv)
        counts.append(_forward_and_backward(network, torch.rand(2, 3, 32, 24), torch.rand(2, 1, 32, 24) > 0.3))
    (forward, backward), plain = counts
    # the plain network's last stage has the picture's gradient too, in the joined tensor's
    assert forward == plain[0] and backward == plain[1] - 2 * 2 * 32 * 24 * 3 * 3 * 9


def test_the_loss_fast_convolution_and_its_gradient() -> None:
    image, weight = torch.rand(2, 64, 7, 8, requires_grad=True), torch.rand(72, 64, 3, 3)
    for fast, plain in (
        (lambda x: ops.conv3x3(x, None, weight, None), lambda x: F.conv2d(x, weight, padding=1)),
        (lambda x: ops.conv3x3(input=x, gate=None, weight=weight, bias=None), lambda x: F.conv2d(x, weight, padding=1)),
    ):
        counts = [_count(lambda work=work: work(image).sum().backward()) for work in (fast, plain)]
        assert counts[0] == counts[1] > 0
