"""The one list of named cases that tests, emulation and benchmarks share, and tensors made from it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Case:
    """One partial convolution. ``mask``: none, single (one channel), channels (one each), blocks (one each for the
    ``mask_channels``), batch1, full or empty."""

    name: str
    n: int = 2
    c: int = 4
    h: int = 9
    w: int = 11
    k: int = 6
    window: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    mask: str = "single"
    bias: bool = True
    mask_channels: tuple[int, ...] = ()

    @property
    def parameters(self) -> dict[str, object]:
        """stride, padding, dilation, groups, as the functions take them."""
        return {name: getattr(self, name) for name in ("stride", "padding", "dilation", "groups")}


# Small and ragged: sizes are prime or odd, so that tails are partial.
CASES = [
    Case("plain3x3"),
    Case("no_bias", bias=False),
    Case("one_pixel", n=1, c=1, h=1, w=1, k=1),
    Case("one_row", h=1, w=7, window=(1, 3), padding=(0, 1)),
    Case("one_column", h=7, w=1, window=(3, 1), padding=(1, 0)),
    Case("pointwise", window=(1, 1), padding=(0, 0)),
    Case("enc1", c=3, h=17, w=13, k=8, window=(7, 7), stride=(2, 2), padding=(3, 3), bias=False),
    Case("enc2", c=8, h=10, w=9, k=5, window=(5, 5), stride=(2, 2), padding=(2, 2), bias=False),
    Case("last", c=11, h=8, w=6, k=3),
    Case("uneven", window=(2, 5), stride=(3, 1), padding=(0, 4), dilation=(2, 1)),
    Case("dilated", window=(3, 3), padding=(2, 2), dilation=(2, 2)),
    Case("strided_past_the_end", h=8, w=8, stride=(3, 3), padding=(0, 0)),
    Case("far_padding", h=3, w=3, window=(3, 3), padding=(4, 4)),
    Case("groups", groups=2),
    Case("depthwise", c=4, k=8, groups=4),
    Case("channel_mask", mask="channels"),
    Case("grouped_channel_mask", mask="channels", groups=2),
    Case("depthwise_channel_mask", c=4, k=8, mask="channels", groups=4, stride=(2, 2)),
    Case("no_mask", mask="none"),
    Case("no_mask_no_padding", mask="none", padding=(0, 0)),
    Case("mask_of_batch_1", n=3, mask="batch1"),
    Case("all_valid", mask="full"),
    Case("all_holes", mask="empty"),
    Case("wide", n=1, c=67, h=5, w=5, k=33),
    Case("many_pixels", n=1, c=3, h=50, w=41, k=4),  # more than one block of the bias gradient's sum
    Case("thin_strip_in_wide_padding", c=2, h=5, w=9, k=3, padding=(7, 1)),
    Case("empty_batch", n=0),
    # First layers: up to 4 input channels, K of 16 a piece. On the CPU in fp32 and channels_last a kernel of their
    # own, of tiles 6 pixels wide and 64 (AVX-512) or 16 (AVX2) channels deep.
    Case("first", n=1, c=3, h=15, w=29, k=64, window=(7, 7), stride=(2, 2), padding=(3, 3), bias=False),
    Case("first_of_two_channels", c=2, h=12, w=17, k=48, window=(2, 5), stride=(3, 1), padding=(0, 4), dilation=(2, 1)),
    Case("first_dilated", n=3, k=80, h=11, w=13, stride=(1, 3), padding=(2, 5), dilation=(3, 2), mask="batch1"),
    Case("first_far_padding", c=3, h=3, w=2, k=16, padding=(4, 5)),
    Case("first_one_pixel", n=1, c=3, h=1, w=1, k=32),
    Case("first_pointwise", c=4, h=5, w=7, k=16, window=(1, 1), padding=(0, 0)),
    Case("first_no_mask", c=3, k=128, mask="none"),
    Case("first_all_holes", c=3, k=16, mask="empty"),
]
BY_NAME = {case.name: case for case in CASES}

# What the CUDA kernels need beside the cases above: tiles, channel chunks, blocks of masks, split reductions, ways out.
KERNEL_CASES = [
    Case("tiles_of_128", n=1, c=24, h=9, w=17, k=136),
    # Taps that the tile's first rows do not need, and later ones do.
    Case("holes_on_top", n=1, c=8, h=12, w=1, k=16, window=(3, 1), padding=(1, 0)),
    Case("patches_of_pixels", n=1, c=40, h=16, w=17, k=72, window=(2, 2), padding=(0, 1)),
    Case("tiles_of_256", n=3, c=40, h=11, w=9, k=24, stride=(2, 2)),
    Case("last_layer", n=1, c=72, h=7, w=19, k=3),
    Case("last_layer_pointwise", n=2, c=24, h=9, w=8, k=8, window=(1, 1), padding=(0, 0), mask="none"),
    Case("two_blocks", n=2, c=88, h=4, w=5, k=24, mask="blocks", mask_channels=(64, 24)),
    Case("two_blocks_of_odd_size", n=2, c=8, h=6, w=5, k=9, mask="blocks", mask_channels=(5, 3), stride=(2, 1)),
    Case("blocks_beyond_the_taps", c=16, k=8, window=(6, 6), mask="blocks", mask_channels=(4, 12)),
    Case("deep", n=1, c=72, h=4, w=3, k=40, stride=(2, 2)),
    Case("deep_all_holes", n=1, c=40, h=3, w=4, k=72, mask="empty"),
    Case("window_of_81_taps", n=1, c=3, h=9, w=9, k=4, window=(9, 9), padding=(4, 4)),
    Case("stride_beyond_the_image", n=1, c=8, h=3, w=3, k=8, stride=(5, 4)),
    Case("channel_masks_of_many", n=1, c=24, h=5, w=6, k=16, mask="channels"),
    # First- and last-layer kernels: more tiles than blocks, ragged tiles, every width of a filter row, pieces
    # of channels that end in the middle of a step, blocks that begin inside a chunk.
    Case("first_in_tiles", n=1, c=3, h=33, w=48, k=40, window=(3, 7), stride=(2, 2), padding=(1, 3), bias=False),
    Case("first_of_odd_sizes", n=2, c=2, h=18, w=19, k=69, window=(5, 4), padding=(2, 1), mask="batch1"),
    Case("first_of_64_taps", n=1, c=4, h=19, w=21, k=16, window=(8, 8), stride=(2, 1), padding=(1, 4)),
    Case("last_in_tiles", n=2, c=88, h=13, w=18, k=3, mask="blocks", mask_channels=(64, 24)),
    Case("last_of_odd_blocks", n=2, c=67, h=5, w=6, k=3, mask="blocks", mask_channels=(64, 3)),
    Case("last_of_8_filters", n=2, c=24, h=14, w=17, k=8, mask="batch1"),
    Case("last_5x5", n=1, c=40, h=9, w=18, k=3, window=(5, 5), padding=(2, 2), mask="blocks", mask_channels=(24, 16)),
    Case("last_of_three_chunks", n=1, c=136, h=4, w=5, k=2, window=(2, 3), bias=False),
    Case("last_all_holes", n=1, c=72, h=5, w=6, k=3, mask="empty"),
]

# The sm_90a kernels' tiles are 128 to 256 rows by 64, 128 or 256 columns (filters forward, channels backward).
WGMMA_CASES = [
    Case("wgmma_64", n=1, c=72, h=9, w=17, k=40),
    Case("wgmma_64_strided", n=1, c=64, h=7, w=9, k=64, stride=(2, 2)),
    Case("wgmma_256", n=1, c=72, h=9, w=17, k=136),
    Case("wgmma_256_strided", n=1, c=136, h=7, w=9, k=72, stride=(2, 2)),
    Case("wgmma_two_tiles_across", n=1, c=264, h=4, w=5, k=264, window=(1, 1), padding=(0, 0), mask="none"),
    Case("wgmma_pointwise", n=1, c=72, h=6, w=7, k=80, window=(1, 1), padding=(0, 0)),
    Case("wgmma_deep", n=1, c=456, h=3, w=4, k=136),
    Case(
        "wgmma_dilated",
        n=2,
        c=72,
        h=11,
        w=9,
        k=80,
        window=(2, 3),
        stride=(1, 2),
        padding=(2, 1),
        dilation=(2, 1),
        mask="batch1",
    ),
    Case("wgmma_two_blocks", n=1, c=72, h=6, w=5, k=80, mask="blocks", mask_channels=(5, 67)),
    Case("wgmma_channel_masks", n=1, c=72, h=5, w=6, k=80, mask="channels"),
    Case("wgmma_all_holes", n=1, c=136, h=5, w=4, k=136, mask="empty"),
    Case("wgmma_patches", n=1, c=40, h=17, w=33, k=72),
    Case("wgmma_past_the_image", n=1, c=72, h=3, w=3, k=72, stride=(5, 4)),
    Case("wgmma_far_padding", n=1, c=72, h=3, w=3, k=72, padding=(4, 4)),
    Case("wgmma_split", n=1, c=72, h=3, w=3, k=80),
    Case("wgmma_tall", n=2, c=72, h=11, w=13, k=264),
    # the last part has fewer steps than its weight gradient has splits
    Case("wgmma_parts", n=64, c=72, h=4, w=4, k=40),
    Case("wgmma_tall_strided", n=2, c=136, h=19, w=15, k=40, stride=(2, 1)),
]

_ENCODER = [(3, 64, 7), (64, 128, 5), (128, 256, 5), (256, 512, 3), *[(512, 512, 3)] * 4]
_DECODER = [*[(1024, 512)] * 4, (768, 256), (384, 128), (192, 64), (67, 3)]


def paper_layers(size: int = 512, batch: int = 6) -> list[Case]:
    """Every layer of the paper's network on square images, decoders on their materialised upsampled + skip input."""
    layers = []
    for level, (c, k, window) in enumerate(_ENCODER, start=1):
        side = size >> (level - 1)
        layers.append(
            Case(f"enc{level}", batch, c, side, side, k, (window,) * 2, (2, 2), (window // 2,) * 2, bias=False)
        )
    for level, (c, k) in zip(range(8, 0, -1), _DECODER, strict=True):
        side = size >> (level - 1)
        skip = {5: 512, 4: 256, 3: 128, 2: 64, 1: 3}.get(level, 512)
        blocks = (c - skip, skip)
        layers.append(
            Case(f"dec{level}", batch, c, side, side, k, mask="blocks", mask_channels=blocks, bias=level == 1)
        )
    return layers


def blob_mask(n: int, h: int, w: int, share: float, generator: torch.Generator) -> Tensor:
    """Irregular holes that hang together, ``share`` of the pixels: (n, 1, h, w) bool, True is valid."""
    coarse = torch.randn(n, 1, h // 8 + 2, w // 8 + 2, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(h, w), mode="bicubic")
    return smooth > smooth.flatten().quantile(share) if share > 0 else torch.ones_like(smooth, dtype=torch.bool)


def make_mask(case: Case, generator: torch.Generator) -> Tensor | None:
    """Holes in the top rows (whole windows die there) and at random below."""
    if case.mask == "none":
        return None
    batch = 1 if case.mask == "batch1" else case.n
    channels = {"channels": case.c, "blocks": len(case.mask_channels)}.get(case.mask, 1)
    shape = (batch, channels, case.h, case.w)
    if case.mask in ("full", "empty"):
        return torch.full(shape, case.mask == "full")
    mask = torch.rand(shape, generator=generator) > 0.4
    mask[:, :, : case.h // 3] = False
    return mask


def operands(
    case: Case, input: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """(input, mask, skip, skip_mask) as the operator takes them: two blocks of channels are two sources."""
    if not case.mask_channels:
        return input, mask, None, None
    assert mask is not None
    first = case.mask_channels[0]
    return input[:, :first], mask[:, :1], input[:, first:], mask[:, 1:]


def spread_mask(case: Case, mask: Tensor | None, input: Tensor) -> Tensor:
    """The case's mask as a bool mask that broadcasts against the input."""
    if mask is None:
        return torch.ones(1, 1, *input.shape[2:], dtype=torch.bool)
    return mask.repeat_interleave(torch.tensor(case.mask_channels), dim=1) if case.mask_channels else mask


@dataclass
class Tensors:
    """Everything that one call needs, in float64, holes poisoned with NaN."""

    input: Tensor
    mask: Tensor | None
    weight: Tensor
    bias: Tensor | None
    grad: Tensor

    def to(self, dtype: torch.dtype, layout: torch.memory_format = torch.contiguous_format) -> Tensors:
        def cast(tensor: Tensor) -> Tensor:
            return tensor.to(dtype).contiguous(memory_format=layout)

        bias = None if self.bias is None else self.bias.to(dtype)
        return replace(self, input=cast(self.input), weight=cast(self.weight), bias=bias, grad=cast(self.grad))


def make_tensors(case: Case, dtype: torch.dtype = torch.float64, *, seed: int = 0, poison: bool = True) -> Tensors:
    """Random tensors, rounded to ``dtype`` and returned in float64, so that every precision sees one problem."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).double()

    mask = make_mask(case, generator)
    input = randn(case.n, case.c, case.h, case.w)
    if poison and mask is not None:
        input = torch.where(spread_mask(case, mask, input), input, torch.nan)
    (r, s), (sh, sw), (ph, pw), (dh, dw) = case.window, case.stride, case.padding, case.dilation
    p, q = (case.h + 2 * ph - dh * (r - 1) - 1) // sh + 1, (case.w + 2 * pw - dw * (s - 1) - 1) // sw + 1
    weight = randn(case.k, case.c // case.groups, r, s)
    return Tensors(input, mask, weight, randn(case.k) if case.bias else None, randn(case.n, case.k, p, q))
