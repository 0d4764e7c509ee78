"""The operation as four loops in numpy, from its definition: the truth that the reference is tested against."""

from __future__ import annotations

import numpy as np


def partial_conv2d(x, mask, weight, bias, stride, padding, dilation, groups):
    """x (N, C, H, W), mask the same shape, weight (K, C / groups, R, S); float64. -> (output, new_mask (N, K, P, Q))."""
    n, c, h, w = x.shape
    k, per_group, r, s = weight.shape
    p = (h + 2 * padding[0] - dilation[0] * (r - 1) - 1) // stride[0] + 1
    q = (w + 2 * padding[1] - dilation[1] * (s - 1) - 1) // stride[1] + 1
    output, new_mask = np.zeros((n, k, p, q)), np.zeros((n, k, p, q), bool)
    for index in np.ndindex(n, k, p, q):
        image, out, row, column = index
        first = out // (k // groups) * per_group
        total, count = 0.0, 0
        for channel, i, j in np.ndindex(per_group, r, s):
            y = row * stride[0] - padding[0] + i * dilation[0]
            z = column * stride[1] - padding[1] + j * dilation[1]
            if 0 <= y < h and 0 <= z < w and mask[image, first + channel, y, z]:
                total += weight[out, channel, i, j] * x[image, first + channel, y, z]
                count += 1
        if count:
            output[index] = total * (per_group * r * s / count) + (0.0 if bias is None else bias[out])
            new_mask[index] = True
    return output, new_mask
