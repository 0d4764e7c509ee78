"""``pconv info``: what is here, what was built, and what is missing with its remedy."""

from __future__ import annotations

import argparse
import importlib.util
import platform
from importlib import metadata

# optional package (import name, distribution) -> the extra that brings it, what it is for
_OPTIONAL = {
    ("PIL", "pillow"): ("inpaint", "pictures"),
    ("safetensors", "safetensors"): ("inpaint", "weights"),
    ("accelerate", "accelerate"): ("train", "training"),
    ("torchmetrics", "torchmetrics"): ("train", "training"),
    ("tensorboard", "tensorboard"): ("train", "training logs"),
    ("rich", "rich"): ("train", "progress bars"),
    ("yaml", "pyyaml"): ("train", "configurations"),
    ("skimage", "scikit-image"): ("quickstart", "packaged photographs"),
    ("sklearn", "scikit-learn"): ("quickstart", "packaged photographs"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options: everything is printed."""
    del parser


def run(args: argparse.Namespace) -> int:
    """Print the report. Exit code 1 where the compiled operators cannot be loaded."""
    del args
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
    rows.append(("CUDA kernels", "none in this version; CUDA tensors are served by the unfused reference"))
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            major, minor = torch.cuda.get_device_capability(index)
            rows.append((f"cuda:{index}", f"{torch.cuda.get_device_name(index)} (sm_{major}{minor})"))
    else:
        rows.append(("devices", "cpu (torch sees no GPU)"))
    return True


def _version(distribution: str) -> str:
    """Its version, or that it is there: a module may come from a distribution of another name."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "present"
