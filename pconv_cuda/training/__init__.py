"""Training by the paper's recipe: configuration, loop, checkpoints, logs."""

from pconv_cuda.training.config import TrainingConfig, flatten, load_config, to_yaml
from pconv_cuda.training.loop import TrainingResult, train
from pconv_cuda.training.networks import build_network

__all__ = [
    "TrainingConfig",
    "TrainingResult",
    "build_network",
    "flatten",
    "load_config",
    "to_yaml",
    "train",
]
