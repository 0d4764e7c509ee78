"""Size, time and largest difference of exported networks, and what they differ from ``inpaint`` by.

python -m benchmarks.export_files [OUT.json]        some minutes
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import measure
from pconv_cuda import PConvUNet, export_onnx, inpaint
from pconv_cuda.export.check import check_sizes, scene
from pconv_cuda.files import atomic_path
from pconv_cuda.models import InpaintingNetwork, load_network


def from_inpaint(file: Path, model: InpaintingNetwork) -> float:
    """The largest difference, of the range 0 to 1, from ``inpaint`` on the sizes of the export's own check."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    largest = 0.0
    for number, size in enumerate(check_sizes(model.grid)):
        image, mask = scene(size, 3, number)
        output = session.run(["output"], {"image": image.numpy(), "mask": mask.numpy()})[0]
        filled = inpaint(model, image, mask, polarity="black-hole")
        largest = max(largest, float((torch.from_numpy(output) - filled).abs().max()))
    return largest


def run() -> dict[str, Any]:
    torch.manual_seed(0)
    networks = {"photo": load_network("photo"), "document": load_network("document"), "paper": PConvUNet().eval()}
    results: dict[str, Any] = {"machine": measure.machine(), "date": time.strftime("%Y-%m-%d"), "files": {}}
    for name, fp16 in (("photo", False), ("photo", True), ("document", False), ("paper", False)):
        with tempfile.TemporaryDirectory() as folder:
            file, start = Path(folder) / "network.onnx", time.perf_counter()
            found = export_onnx(networks[name], file, fp16=fp16)
            row = {"mib": file.stat().st_size / 2**20, "seconds": time.perf_counter() - start}
            row |= {"largest_difference": found.largest, "allowed": found.tolerance}
            if name != "paper":  # its random weights leave the range, and a hole that is too wide gets the smooth fill
                row["largest_difference_from_inpaint"] = from_inpaint(file, networks[name])
        results["files"][name + " fp16" * fp16] = row
        print(name, "fp16" if fp16 else "", row, flush=True)
    return results


if __name__ == "__main__":
    measured = run()
    if len(sys.argv) > 1:
        with atomic_path(Path(sys.argv[1])) as temporary:
            temporary.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
