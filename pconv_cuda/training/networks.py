"""The trained network with its first weights, its optimiser, and the average of its weights."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from pconv_cuda import named
from pconv_cuda.errors import PConvError
from pconv_cuda.models import FillRefiner, InpaintingNetwork, PConvUNet
from pconv_cuda.training.grids import GridFacts, mode_of
from pconv_cuda.training.options import TrainingConfig

__all__ = ["WeightAverage", "build_network", "build_optimizer", "freeze_encoder_bn"]


def build_network(config: TrainingConfig, grid: GridFacts | None = None) -> InpaintingNetwork:
    """The network with its first weights: those of ``model.weights``, or a function of the seed.

    Args:
        config: its section ``model``.
        grid: of gridded data, whose channels, unit and axes the network then has.

    Raises:
        PConvError: weights that cannot be had, or are of another network.
    """
    torch.manual_seed(config.train.seed)
    model = config.model
    network: InpaintingNetwork
    options: dict[str, Any] = {"levels": model.levels, "width": model.width, "conv": model.conv}
    if grid is not None:
        steps = grid.time_steps
        options |= {"in_channels": steps, "mean": (grid.mean,) * steps, "std": (grid.std,) * steps}
        options |= {"padding_mode": mode_of(grid.seen), "values": "data"}
        if model.tension is not None:
            options["tension"] = model.tension
        if model.prefill is not None and steps > 1:
            raise PConvError(f"config: data.time_steps: expected 1 with model.prefill, got {steps}")
    if model.network == "refiner":
        assert model.prefill is not None
        network = FillRefiner(prefill=model.prefill, **options)
    else:
        network = PConvUNet(prefill=model.prefill, out_channels=None if grid is None else 1, **options)
    if model.weights is not None:
        _begin_from(model.weights, network)
    if config.train.batch_norm == "sync":
        network = torch.nn.SyncBatchNorm.convert_sync_batchnorm(network)
    return network.to(memory_format=torch.channels_last) if config.train.channels_last else network


def _begin_from(source: str, network: InpaintingNetwork) -> None:
    found = named.load(source, torch.device("cpu"), "model.weights")
    if not isinstance(found, InpaintingNetwork):
        raise PConvError(f"config: model.weights: expected a network, but {source} has no weights")
    own, wanted = found.config, network.config
    # weights know no unit, and how a crop is padded is not how they are used
    free = ("mean", "std", "padding_mode") if network.values == "data" else ()
    # of another class, it has other keys
    if differing := [key for key in wanted if own.get(key) != wanted[key] and key not in free]:
        key = differing[0]
        raise PConvError(
            f"config: model.weights: expected a network with {key} {wanted[key]}, as the configuration says, but "
            f"{source} has {own.get(key)}"
        )
    network.load_state_dict(found.state_dict())


def freeze_encoder_bn(network: InpaintingNetwork) -> None:
    """For stage 2 of a training; other networks than the U-Net have no batch norm."""
    if isinstance(network, PConvUNet):
        network.freeze_encoder_bn()


def build_optimizer(config: TrainingConfig, network: torch.nn.Module, device: torch.device) -> torch.optim.Optimizer:
    """Adam, or AdamW where there is a weight decay."""
    train = config.train
    # One pass over parameters, gradients and moments instead of a dozen.
    fused = device.type in ("cpu", "cuda")
    if train.weight_decay:
        return torch.optim.AdamW(network.parameters(), lr=train.lr, weight_decay=train.weight_decay, fused=fused)
    return torch.optim.Adam(network.parameters(), lr=train.lr, fused=fused)


Tensors = tuple[Tensor, ...] | list[Tensor]


class WeightAverage:
    """An exponential average of a network's weights and statistics: smoother than the last ones, and better.

    Its decay begins small, so that the first weights soon count little: after n steps it is at most (1 + n) / (10 + n).
    """

    def __init__(self, network: InpaintingNetwork, decay: float) -> None:
        def update(averages: Tensors, current: Tensors, count: Tensor | int) -> None:
            steps = int(count)
            share = 1 - min(decay, (1 + steps) / (10 + steps))
            if averages[0].is_floating_point():
                torch._foreach_lerp_(averages, current, share)
            else:  # the number of batches that a norm has seen
                torch._foreach_copy_(averages, current)

        self._model = AveragedModel(network, multi_avg_fn=update, use_buffers=True)

    @property
    def network(self) -> InpaintingNetwork:
        """A network with the averaged weights."""
        return cast(InpaintingNetwork, self._model.module)

    def update(self, network: InpaintingNetwork) -> None:
        """After a step."""
        self._model.update_parameters(network)

    def load(self, state: dict[str, Tensor], steps: int) -> None:
        """Go on from the average ``state`` of so many steps."""
        self.network.load_state_dict(state)
        self._model.n_averaged.fill_(steps)
