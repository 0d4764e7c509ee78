"""PartialConv2d in a network of your own: where nn.Conv2d stood, with the mask passed on.

python examples/layer_in_your_network.py [--steps 1]        on pictures that are drawn here
"""

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pconv_cuda import PartialConv2d
from pconv_cuda.masks import draw_masks_batch


class SmallNetwork(nn.Module):
    def __init__(self, width: int = 32) -> None:
        super().__init__()
        # was nn.Conv2d(3, width, 5, padding=2) and so on: the same arguments, the same state_dict
        self.first = PartialConv2d(3, width, 5, padding=2, return_mask=True)
        self.second = PartialConv2d(width, width, 3, padding=2, dilation=2, return_mask=True)
        self.third = PartialConv2d(width, width, 5, padding=8, dilation=4, return_mask=True)
        self.colours = nn.Conv2d(width, 3, 1)  # the holes are closed by now: this layer stays as it was

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, list[Tensor]]:
        masks = [mask]
        for layer in (self.first, self.second, self.third):
            x, mask = layer(x, mask)  # each layer gets the mask of the one before; the hole shrinks
            x = F.leaky_relu(x, 0.2)
            masks.append(mask)
        return self.colours(x), masks


def main(arguments: list[str] | None = None) -> tuple[list[float], list[float]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1, help="training steps (default: %(default)s)")
    if (steps := parser.parse_args(arguments).steps) < 1:
        parser.error(f"--steps: expected at least 1, got {steps}")
    torch.manual_seed(0)
    truth = F.interpolate(torch.rand(8, 3, 8, 8), size=64, mode="bicubic").clamp(0, 1)  # (N, 3, H, W)
    mask = draw_masks_batch(8, 64, seed=0, hole_share=(0.1, 0.3))  # (N, 1, H, W) bool: True is valid, False is a hole
    holed = torch.where(mask, truth, torch.nan)  # what lies in a hole is not read, not even NaN
    network, losses = SmallNetwork(), []
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(steps + 1):
        output, masks = network(holed, mask)
        loss = F.l1_loss(output, truth)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    shares = [1 - one.float().mean().item() for one in masks]
    print("share of holes, before the first layer and after each:", ", ".join(f"{share:.1%}" for share in shares))
    print(f"loss before and after {steps} step(s): {losses[0]:.4f}, {losses[-1]:.4f}")
    return losses, shares


if __name__ == "__main__":
    main()
