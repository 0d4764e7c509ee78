"""torch.func's transforms and forward-mode AD where operators are called inside a network: served, or refused."""

from __future__ import annotations

import pytest
import torch
from cases_upcat import BY_NAME, make_tensors
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jvp, vmap

from pconv_cuda import PConvUNet, reference
from pconv_cuda.functional import partial_conv2d_upcat
from pconv_cuda.models import FusedUNet


def fused(**options) -> tuple[PConvUNet, FusedUNet]:
    """A network in float64 with statistics of its own, as it is and fused."""
    torch.manual_seed(1)
    plain = PConvUNet(levels=2, width=4, **options).double().eval()
    for norm in plain.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 2)
    return plain, plain.fuse()


def picture(channels: int = 1) -> tuple[Tensor, Tensor]:
    mask = torch.ones(2, channels, 12, 12, dtype=torch.bool)
    mask[..., 3:7, 4:9] = False
    return torch.randn(2, 3, 12, 12, dtype=torch.float64), mask


@pytest.mark.parametrize("channels", [1, 3])
def test_forward_mode_through_a_fused_network(channels: int) -> None:
    plain, model = fused()
    image, mask = picture(channels)
    mask[:, -1, 0, 0] = False  # with three channels: not alike
    tangent = torch.randn_like(image)
    expected = jvp(lambda x: plain(x, mask)[0], (image,), (tangent,))
    for ours, true in zip(jvp(lambda x: model(x, mask)[0], (image,), (tangent,)), expected, strict=True):
        torch.testing.assert_close(ours, true)
    with forward_ad.dual_level():
        output = forward_ad.unpack_dual(model(forward_ad.make_dual(image, tangent), mask)[0])
    assert output.tangent is not None
    torch.testing.assert_close(output.tangent, expected[1])


def test_gradients_and_batches_through_a_fused_network() -> None:
    plain, model = fused()
    image, mask = picture()
    for transform in (
        lambda network: grad(lambda x: network(x, mask)[0].square().sum())(image),
        lambda network: vmap(lambda x: network(x, mask)[0])(torch.stack((image, image * 2))),
    ):
        torch.testing.assert_close(transform(model), transform(plain))


def test_a_fused_network_with_the_weights_of_another_is_that_one() -> None:
    _, model = fused()
    image, mask = picture()
    torch.manual_seed(2)
    other = PConvUNet(levels=2, width=4).double().eval().fuse()
    found = functional_call(model, dict(other.named_buffers()), (image, mask))[0]
    torch.testing.assert_close(found, other(image, mask)[0], rtol=0, atol=0)
    assert not torch.equal(found, model(image, mask)[0])


@pytest.mark.parametrize("equal", [True, False])
def test_vmap_of_a_stage_with_masks_of_all_channels(equal: bool) -> None:
    t = make_tensors(BY_NAME["phases"], poison=False)
    low_mask, skip_mask = t.low_mask.repeat(1, 5, 1, 1), t.skip_mask.repeat(1, 3, 1, 1)
    if not equal:  # vmap cannot look at values, so that the result has to be right for these too
        skip_mask[:, 1] = ~skip_mask[:, 1]
    both = torch.stack((t.skip, t.skip * 2)), torch.stack((skip_mask, skip_mask.flip(2)))

    def stage(skip: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return partial_conv2d_upcat(t.low, low_mask, skip, mask, t.weight, t.bias)

    outputs, new_masks = vmap(stage)(*both)
    for index in range(2):
        joined = torch.cat((reference.doubled(low_mask), both[1][index]), 1)
        image = torch.cat((reference.doubled(t.low), both[0][index]), 1)
        expected = reference.partial_conv2d(image, joined, t.weight, t.bias, padding=1)
        torch.testing.assert_close(outputs[index], expected[0])
        assert torch.equal(new_masks[index], expected[1])


def test_vmap_of_a_network_with_masks_of_all_channels() -> None:
    plain, model = fused()
    image, mask = picture(3)
    masks = torch.stack((mask, mask.flip(3)))
    for network in (plain, model):
        outputs = vmap(lambda m, network=network: network(image, m)[0])(masks)
        for output, one in zip(outputs, masks, strict=True):
            torch.testing.assert_close(output, plain(image, one)[0])


def test_pconv_check_sees_through_vmap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PCONV_CHECK", "1")
    plain, _ = fused()
    image, mask = picture()
    masks = torch.stack((mask.double(), mask.double()))
    vmap(lambda m: plain(image, m)[0])(masks)
    masks[1, 0, 0, 0, 0] = torch.nan
    with pytest.raises(RuntimeError, match="mask: expected zeros and ones"):
        vmap(lambda m: plain(image, m)[0])(masks)
