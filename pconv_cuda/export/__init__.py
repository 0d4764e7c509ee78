"""Networks as files for other programs: ONNX, and packages of torch.export."""

from pconv_cuda.export.api import export_onnx, export_program
from pconv_cuda.export.check import Difference
from pconv_cuda.ops.transforms import unfused

__all__ = ["Difference", "export_onnx", "export_program", "unfused"]
