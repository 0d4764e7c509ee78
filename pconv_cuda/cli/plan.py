"""``pconv info --plan``: which CUDA kernels a layer would run on, and a lower bound of its time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from pconv_cuda.errors import PConvError

_NAMES = ("N", "C", "H", "W", "K", "R", "S", "STRIDE")
_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4, "float64": 8}
# Measured ceilings of an H100 that the floors are worked out with: copies in bytes a second, dense products in FLOP/s.
_COPY = 3.0e12
_PRODUCTS = {"bfloat16": 790e12, "float16": 790e12, "float32": 395e12, "float64": 34e12}


def floor(sizes: Sequence[int], dtype: str, *, low: int = 0, masks: int = 1) -> dict[str, float]:
    """FLOPs of the forward pass, and its fewest bytes: every tensor once, one byte a pixel of either mask, ratios.

    low: of a decoder stage, the channels of the small grid, whose 9 taps come down to 4. masks: the input mask's
    channels.
    """
    n, c, h, w, k, r, s, stride = sizes
    p, q = ((size + 2 * (window // 2) - window) // stride + 1 for size, window in ((h, r), (w, s)))
    element = _BYTES[dtype]
    input_values, mask_bytes, taps = n * h * w * c, n * h * w * masks, c * r * s
    if low:
        input_values = n * h * w * (c - low) + n * (h // 2) * (w // 2) * low
        mask_bytes = n * h * w + n * (h // 2) * (w // 2)
        taps = (c - low) * r * s + low * 4
    tensors = (input_values + n * p * q * k + k * c * r * s) * element
    return {"flops": 2.0 * n * p * q * k * taps, "bytes": float(tensors + mask_bytes + n * p * q * 5)}


def show(
    words: Sequence[str],
    *,
    low: str | None = None,
    mask_channels: Sequence[str] | None = None,
    wgmma: str | None = None,
) -> int:
    """Print plan and floor. PConvError where a word is not what its place asks for."""
    *sizes, dtype = words
    if dtype not in _BYTES:
        raise PConvError(f"--plan: DTYPE: expected one of {', '.join(_BYTES)}, got {dtype!r}")
    numbers = [_whole(f"--plan: {name}", word) for name, word in zip(_NAMES, sizes, strict=True)]
    blocks = [_whole("--mask-channels", word) for word in mask_channels or ()]
    small = 0 if low is None else _whole("--low", low)
    _check(numbers, small, blocks)

    import torch

    from pconv_cuda.ops import extension, tf32

    device, where = _device(torch, extension.cuda_module(), wgmma)
    options = {"tf32": tf32.tf32_allowed(), **device}
    module = extension.load()
    if small:
        rows = module.plan_upcat(*numbers[:5], small, dtype, **options)
        what = f"decoder stage of {small} + {numbers[1] - small} channels, two one-channel masks"
    else:
        rows = module.plan(*numbers, dtype, mask_channels=blocks, **options)
        what = f"mask of {len(blocks)} channels" if len(blocks) > 1 else "one-channel mask"
    print(f"on {where}, channels_last, {what}:")
    for name, kernel, notes in rows:
        print(f"  {name:<16} {kernel}" + (f" ({notes})" if notes else ""))
    least = floor(numbers, dtype, low=small, masks=max(1, len(blocks)))
    arithmetic, memory = least["flops"] / _PRODUCTS[dtype] * 1e6, least["bytes"] / _COPY * 1e6
    bound = "arithmetic" if arithmetic > memory else "bytes"
    print(f"floor of the forward pass: {least['flops'] / 1e9:.3f} GFLOP, {least['bytes'] / 1e6:.3f} MB")
    print(f"  on an H100 {arithmetic:.1f} us by arithmetic, {memory:.1f} us by bytes: bound by {bound}")
    return 0


def _whole(name: str, word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise PConvError(f"{name}: expected a whole number of at least 1, got {word!r}")
    return int(word)


def _check(numbers: Sequence[int], low: int, blocks: Sequence[int]) -> None:
    """PConvError where the options do not fit the layer."""
    _, c, h, w, _, r, s, stride = numbers
    if blocks and sum(blocks) != c:
        raise PConvError(f"--mask-channels: expected a sum of C = {c}, got {' + '.join(map(str, blocks))}")
    if len(blocks) > 2 and len(blocks) != c:
        raise PConvError(f"--mask-channels: expected one, two or C = {c} numbers, got {len(blocks)}")
    if not low:
        return
    if blocks:
        raise PConvError(f"--mask-channels: expected none with --low, which has a mask for each block, got {blocks}")
    if low >= c:
        raise PConvError(f"--low: expected fewer than C = {c} channels, got {low}")
    if (r, s, stride) != (3, 3, 1) or h % 2 or w % 2:
        raise PConvError(
            "--low: expected R = S = 3, STRIDE = 1 and even H and W, got "
            f"R = {r}, S = {s}, STRIDE = {stride}, H = {h}, W = {w}"
        )


def _device(torch: Any, module: Any, wgmma: str | None) -> tuple[dict[str, Any], str]:
    """What the plan depends on besides sizes: for the plan, and as text."""
    device, where = {"arch": 90, "multiprocessors": 132}, "an H100 (no GPU is here)"
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        device = {"arch": 10 * properties.major + properties.minor, "multiprocessors": properties.multi_processor_count}
        # Some versions of torch lack it; then the least of any device of sm_80 and later.
        device["shared_bytes"] = getattr(properties, "shared_memory_per_block_optin", 99 << 10)
        where = properties.name
    if device["arch"] < 80:
        raise PConvError(
            f"--plan: expected a GPU of compute capability 8.0 or later, got {where} "
            f"({device['arch'] / 10}): the unfused reference runs there"
        )
    if device["arch"] == 90:  # the only devices that have the instructions
        # As the operators decide (csrc/torch/cuda_support.h).
        wanted = (os.environ.get("PCONV_WGMMA") if wgmma is None else wgmma) != "0"
        built = module is None or "9.0a" in module.architectures
        device["wgmma"] = wanted and built
        where += f", wgmma {'on' if wanted and built else 'off'}"
        where += "" if built or not wanted else f" (built for {module.architectures}, without 9.0a)"
    return device, where
