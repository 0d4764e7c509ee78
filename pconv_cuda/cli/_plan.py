"""``pconv info --plan``: which CUDA kernels a layer would run on, and the floor that no kernel can pass."""

from __future__ import annotations

from collections.abc import Sequence

from pconv_cuda.errors import PConvError

_NAMES = ("N", "C", "H", "W", "K", "R", "S", "STRIDE")
_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4, "float64": 8}
# Measured ceilings of an H100 that the floors are worked out with: copies in bytes a second, dense products in FLOP/s.
_COPY = 3.0e12
_PRODUCTS = {"bfloat16": 790e12, "float16": 790e12, "float32": 395e12, "float64": 34e12}


def floor(sizes: Sequence[int], dtype: str) -> dict[str, float]:
    """FLOPs of the forward pass, and its fewest bytes: every tensor once, one byte a pixel of either mask, ratios."""
    n, c, h, w, k, r, s, stride = sizes
    p, q = ((size + 2 * (window // 2) - window) // stride + 1 for size, window in ((h, r), (w, s)))
    element = _BYTES[dtype]
    activations = (n * h * w * c + n * p * q * k + k * c * r * s) * element
    return {"flops": 2.0 * n * p * q * k * c * r * s, "bytes": float(activations + n * h * w + n * p * q * 5)}


def show(words: Sequence[str]) -> int:
    """Print plan and floor. PConvError where a word is not what its place asks for."""
    *sizes, dtype = words
    if dtype not in _BYTES:
        raise PConvError(f"--plan: DTYPE: expected one of {', '.join(_BYTES)}, got {dtype!r}")
    numbers = []
    for name, word in zip(_NAMES, sizes, strict=True):
        if not word.isdecimal() or int(word) < 1:
            raise PConvError(f"--plan: {name}: expected a whole number of at least 1, got {word!r}")
        numbers.append(int(word))

    import torch

    from pconv_cuda import _extension, _precision

    device, where = {"arch": 90, "multiprocessors": 132}, "an H100 (no GPU is here)"
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        device = {"arch": 10 * properties.major + properties.minor, "multiprocessors": properties.multi_processor_count}
        # Not every torch tells it; the least that any device of sm_80 and later has then stands in.
        device["shared_bytes"] = getattr(properties, "shared_memory_per_block_optin", 99 << 10)
        where = properties.name
    rows = _extension.load().plan(*numbers, dtype, tf32=_precision.tf32_allowed(), **device)
    print(f"on {where}, channels_last, one-channel mask:")
    for name, kernel, notes in rows:
        print(f"  {name:<16} {kernel}" + (f" ({notes})" if notes else ""))
    least = floor(numbers, dtype)
    arithmetic, memory = least["flops"] / _PRODUCTS[dtype] * 1e6, least["bytes"] / _COPY * 1e6
    bound = "arithmetic" if arithmetic > memory else "bytes"
    print(f"floor of the forward pass: {least['flops'] / 1e9:.3f} GFLOP, {least['bytes'] / 1e6:.3f} MB")
    print(f"  on an H100 {arithmetic:.1f} us by arithmetic, {memory:.1f} us by bytes: bound by {bound}")
    return 0
