"""What a mask's values mean: more or less than 0 is valid, 0 and NaN are holes, complex numbers are refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pconv_cuda import PartialConv2d, PConvUNet, ops, reference
from pconv_cuda.functional import partial_conv2d, partial_conv2d_sources, partial_conv2d_upcat
from pconv_cuda.losses import InpaintingLoss

WINDOW = ([1, 1], [1, 1], [1, 1], 1, True)  # of a decoder stage
FLOATS = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
WEIGHT, SMALL = torch.randn(4, 3, 3, 3), torch.randn(2, 5, 3, 4)
UPCAT = torch.randn(4, 8, 3, 3)
LOW_MASK = torch.rand(2, 1, 3, 4) > 0.4


def raw(x: Tensor, m: Tensor) -> tuple[Tensor, ...]:
    return torch.ops.pconv_cuda.partial_conv2d(x, m, None, None, WEIGHT, None, [1, 1], [1, 1], [1, 1], 1)


def network(x: Tensor, m: Tensor) -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    return PConvUNet(levels=2, width=4).eval()(x, m)


def layer(x: Tensor, m: Tensor, **options) -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    return PartialConv2d(3, 4, 3, padding=1, return_mask=True, **options)(x, m)


READERS = {
    "function": lambda x, m: partial_conv2d(x, m, WEIGHT, padding=1),
    "reference": lambda x, m: reference.partial_conv2d(x, m, WEIGHT, padding=1),
    "sources": lambda x, m: partial_conv2d_sources([x], [m], WEIGHT, padding=1),
    "same": lambda x, m: partial_conv2d(x, m, WEIGHT[..., :2, :2], padding="same"),
    "layer": layer,
    "reflect": lambda x, m: layer(x, m, padding_mode="reflect"),
    "operator": raw,
    "stage": lambda x, m: partial_conv2d_upcat(SMALL, LOW_MASK, x, m, UPCAT),
    "stage operator": lambda x, m: ops.partial_conv2d(SMALL, None, x, m, UPCAT, None, *WINDOW),
    "stage reference": lambda x, m: reference.partial_conv2d_upcat(SMALL, LOW_MASK, x, m, UPCAT),
    "network": network,
    "loss": lambda x, m: tuple(InpaintingLoss(vgg="none")(x, m, x * 2, x).values()),
}


def picture(channels: int = 1) -> tuple[Tensor, Tensor]:
    """A picture with NaN in its holes, and its mask."""
    mask = torch.rand(2, channels, 6, 8) > 0.4
    mask[..., :3, :4] = False
    return torch.where(mask, torch.randn(2, 3, 6, 8), torch.nan), mask


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize("reader", READERS)
def test_nan_in_a_mask_is_a_hole(reader: str, dtype: torch.dtype) -> None:
    image, mask = picture(3 if reader in ("function", "network") else 1)
    image = image.nan_to_num(0.0) if reader == "loss" else image
    expected = READERS[reader](image, mask)
    valid = torch.tensor([1.0, -1.0, 0.5, torch.inf], dtype=torch.float64)[torch.randint(4, mask.shape)]
    hole = torch.tensor([0.0, -0.0, torch.nan, -torch.nan], dtype=torch.float64)[torch.randint(4, mask.shape)]
    odd = torch.where(mask, valid, hole).to(dtype)
    for given in (odd, torch.cat((odd, odd), 3)[..., :8], odd.transpose(2, 3).contiguous().transpose(2, 3)):
        for ours, true in zip(READERS[reader](image, given), expected, strict=True):
            if reader == "loss":  # sums in another order
                torch.testing.assert_close(ours, true)
            else:
                assert torch.equal(ours.to(true.dtype), true)


def test_the_stages_masks_of_all_channels_may_hold_nan() -> None:
    image, mask = picture()
    odd = torch.where(mask, 1.0, torch.nan)
    expected = partial_conv2d_upcat(SMALL, LOW_MASK, image, mask, UPCAT)
    output = partial_conv2d_upcat(SMALL, LOW_MASK, image, odd.repeat(1, 3, 1, 1), UPCAT)
    assert all(torch.equal(ours, true) for ours, true in zip(output, expected, strict=True))


@pytest.mark.parametrize("reader", [name for name in READERS if "operator" not in name])
def test_complex_masks_are_refused(reader: str) -> None:
    image, mask = picture()
    with pytest.raises(TypeError, match="expected bool, uint8 or a floating dtype"):
        READERS[reader](image, mask.to(torch.complex64))


def test_pconv_check_reads_every_channel_of_a_networks_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    image, mask = picture()
    monkeypatch.setenv("PCONV_CHECK", "1")
    full = mask.float().repeat(1, 3, 1, 1)
    network(image, full)
    for value in (0.5, torch.nan):
        odd = full.clone()
        odd[0, 2] = torch.where(odd[0, 2] > 0, value, 0.0)
        with pytest.raises(RuntimeError, match="mask: expected zeros and ones"):
            network(image, odd)
