"""A twin as a graph of torch.export, for any batch, height and width."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from pconv_cuda.export.plain_network import PlainNetwork

__all__ = ["traced"]


def traced(twin: PlainNetwork, channels: int, grid: int) -> Any:
    """The twin's :class:`torch.export.ExportedProgram`.

    Args:
        twin: in eval mode.
        channels: of its pictures.
        grid: of the network.
    """
    from torch.export import Dim, export
    from torch.fx.experimental import _config

    # Larger than a cell in each direction: where a size is 1, a graph would be made for 1 alone.
    side = 2 * max(grid, 32)
    example = torch.zeros(2, channels, side + 3, side + 13), torch.ones(2, 1, side + 3, side + 13)
    shape = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    oblivious = _config.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]
    with torch.no_grad(), warnings.catch_warnings(), oblivious:
        warnings.simplefilter("ignore")  # of torch's own parts that are to be replaced
        return export(twin, example, dynamic_shapes=(shape, shape), strict=False)
