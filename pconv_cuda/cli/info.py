"""``pconv info``: what is here, what was built, and what is missing with its remedy."""

from __future__ import annotations

import argparse
import importlib.util
import platform
from importlib import metadata
from typing import Any

# optional package (import name, distribution) -> the extra that brings it, what it is for
_OPTIONAL = {
    ("PIL", "pillow"): ("inpaint", "pictures"),
    ("safetensors", "safetensors"): ("inpaint", "weights"),
    ("accelerate", "accelerate"): ("train", "training"),
    ("torchmetrics", "torchmetrics"): ("train", "training"),
    ("tensorboard", "tensorboard"): ("train", "training logs"),
    ("rich", "rich"): ("train", "progress bars"),
    ("yaml", "pyyaml"): ("train", "configurations"),
    ("pytest_benchmark", "pytest-benchmark"): ("bench", "benchmarks"),
    ("skimage", "scikit-image"): ("quickstart", "packaged photographs"),
    ("sklearn", "scikit-learn"): ("quickstart", "packaged photographs"),
    ("matplotlib", "matplotlib"): ("bench", "plots"),
    ("cv2", "opencv-python-headless"): ("video", "masks from video, baselines of an evaluation"),
    ("torch_fidelity", "torch-fidelity"): ("eval", "FID"),
    ("h5py", "h5py"): ("convert", "reading .h5"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Without options everything is printed."""
    parser.add_argument(
        "--plan",
        nargs=9,
        metavar=("N", "C", "H", "W", "K", "R", "S", "STRIDE", "DTYPE"),
        help="which CUDA kernels a channels_last layer with padding R//2, S//2 would run on, and its floor "
        "(DTYPE: bfloat16, float16, float32, float64); on the GPU that is here, else on an H100",
    )


def run(args: argparse.Namespace) -> int:
    """Print the report. Exit code 1 where the compiled operators cannot be loaded."""
    if args.plan:
        from pconv_cuda.cli import _plan

        return _plan.show(args.plan)
    rows: list[tuple[str, str]] = [("python", platform.python_version())]
    remedies: list[str] = []
    working = _core(rows, remedies)
    for (module, distribution), (extra, purpose) in _OPTIONAL.items():
        if importlib.util.find_spec(module) is None:
            rows.append((distribution, f"missing ({purpose})"))
            remedies.append(f"{distribution}: pip install 'pconv-cuda[{extra}]'")
        else:
            rows.append((distribution, _version(distribution)))
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")
    print("\nmissing, and how to get it:" if remedies else "\nnothing is missing")
    for remedy in remedies:
        print(f"  {remedy}")
    return 0 if working else 1


def _core(rows: list[tuple[str, str]], remedies: list[str]) -> bool:
    """torch, the extension and the devices; the rows say what there is, the remedies what there is not."""
    from pconv_cuda import __version__

    rows.insert(0, ("pconv-cuda", __version__))
    try:
        import torch
    except ImportError as error:
        rows.append(("torch", f"missing ({error})"))
        remedies.append("torch: pip install 'torch>=2.11' torchvision")
        return False
    rows.append(("torch", f"{torch.__version__} (CUDA {torch.version.cuda or 'none'})"))
    for name in ("torchvision", "numpy"):
        if importlib.util.find_spec(name) is None:
            rows.append((name, "missing"))
            remedies.append(f"{name}: pip install {name}")
        else:
            rows.append((name, _version(name)))

    from pconv_cuda import _extension

    try:
        built = _extension.load().build_info()
    except ImportError as error:
        rows.append(("CPU operators", "not loaded"))
        remedies.append(str(error))
        return False
    rows.append(("CPU operators", f"{built['cpu']}, {torch.get_num_threads()} threads"))
    rows.append(
        ("built with", f"torch {built['built_with_torch']}, {built['compiler']}, stable ABI {built['stable_abi']}")
    )
    cuda = _extension.cuda_module()
    rows.append(("CUDA kernels", f"for {cuda.architectures}; not measured on a GPU yet" if cuda else _no_cuda(torch)))
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            major, minor = torch.cuda.get_device_capability(index)
            rows.append((f"cuda:{index}", f"{torch.cuda.get_device_name(index)} (sm_{major}{minor})"))
    else:
        rows.append(("devices", "cpu (torch sees no GPU)"))
    return True


def _no_cuda(torch: Any) -> str:
    if torch.version.cuda is None:
        return "none: this torch was built without CUDA"
    return "none in this build (no nvcc was found, or PCONV_CUDA=0); CUDA tensors are served by the unfused reference"


def _version(distribution: str) -> str:
    """Its version, or that it is there: a module may come from a distribution of another name."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "present"
