"""The paper's table: networks and baselines over hole shares, with and without holes at the border."""

from pconv_cuda.evaluation.run import Settings, evaluate

__all__ = ["Settings", "evaluate"]
