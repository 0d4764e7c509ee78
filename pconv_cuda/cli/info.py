"""``pconv info``: versions, what was built, devices, and how to install what is missing."""

from __future__ import annotations

import argparse
import importlib.util
import platform
from importlib import metadata
from typing import Any

from pconv_cuda.errors import PConvError
from pconv_cuda.named import DEFAULT, NAMED

# optional package (import name, distribution) -> what it is for
_OPTIONAL = {
    ("PIL", "pillow"): "pictures",
    ("safetensors", "safetensors"): "weights",
    ("tifffile", "tifffile"): "TIFF files",
    ("imagecodecs", "imagecodecs"): "compressed TIFF files",
    ("jpeglib", "jpeglib"): "jpg files that change in the hole's blocks alone",
    ("pillow_heif", "pillow-heif"): "HEIC pictures",
    ("accelerate", "accelerate"): "training",
    ("torchmetrics", "torchmetrics"): "training",
    ("tensorboard", "tensorboard"): "training logs",
    ("yaml", "pyyaml"): "configurations",
    ("pytest_benchmark", "pytest-benchmark"): "benchmarks",
    ("skimage", "scikit-image"): "packaged photographs",
    ("sklearn", "scikit-learn"): "packaged photographs",
    ("matplotlib", "matplotlib"): "plots",
    ("cv2", "opencv-python-headless"): "masks from video, baselines of an evaluation",
    ("torch_fidelity", "torch-fidelity"): "FID",
    ("h5py", "h5py"): "reading .h5",
    ("onnx", "onnx"): "pconv export",
    ("onnxscript", "onnxscript"): "pconv export",
    ("onnxruntime", "onnxruntime"): "pconv export",
    ("huggingface_hub", "huggingface-hub"): "weights on a hub",
    ("xarray", "xarray"): "grids",
    ("netCDF4", "netCDF4"): "NetCDF files",
    ("zarr", "zarr"): "Zarr stores",
    ("rasterio", "rasterio"): "GeoTIFF files",
    ("starlette", "starlette"): "pconv serve",
    ("uvicorn", "uvicorn"): "pconv serve",
    ("python_multipart", "python-multipart"): "pconv serve",
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
    parser.add_argument(
        "--low",
        metavar="CHANNELS",
        help="with --plan: a decoder stage (3x3, stride 1) whose first CHANNELS of C come from the small grid",
    )
    parser.add_argument(
        "--mask-channels",
        nargs="+",
        metavar="CHANNELS",
        help="with --plan: how many of C each channel of the mask stands for (default: one mask for all), e.g. 64 3",
    )
    parser.add_argument(
        "--wgmma",
        choices=("0", "1"),
        help="with --plan: the wgmma kernels of sm_90 (default: as PCONV_WGMMA says)",
    )


def run(args: argparse.Namespace) -> int:
    """Print the report. Exit code 1 where the compiled operators cannot be loaded."""
    if args.plan:
        from pconv_cuda.cli import plan

        return plan.show(args.plan, low=args.low, mask_channels=args.mask_channels, wgmma=args.wgmma)
    for option in ("low", "mask_channels", "wgmma"):
        if getattr(args, option) is not None:
            name = option.replace("_", "-")
            raise PConvError(f"--{name}: expected --plan with it, got {getattr(args, option)!r} alone")
    rows: list[tuple[str, str]] = [("python", platform.python_version())]
    remedies: list[str] = []
    working = _core(rows, remedies)
    for (module, distribution), purpose in _OPTIONAL.items():
        if importlib.util.find_spec(module) is None:
            rows.append((distribution, f"missing ({purpose})"))
            remedies.append(f"{distribution}: pip install {distribution}")
        else:
            rows.append((distribution, _version(distribution)))
    for name, one in NAMED.items():
        rows.append((f"--weights {name}", one.about + (" (default of pconv inpaint)" if name == DEFAULT else "")))
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")
    print("\nmissing, and how to get it:" if remedies else "\nnothing is missing")
    for remedy in remedies:
        print(f"  {remedy}")
    return 0 if working else 1


def _core(rows: list[tuple[str, str]], remedies: list[str]) -> bool:
    """torch, the extension and the devices: rows of what was found, remedies for what was not."""
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

    try:
        from pconv_cuda.ops import extension

        built = extension.load().build_info()
    except ImportError as error:
        rows.append(("CPU operators", "not loaded"))
        remedies.append(str(error))
        return False
    rows.append(("CPU operators", f"{built['cpu']}, {torch.get_num_threads()} threads"))
    rows.append(
        ("built with", f"torch {built['built_with_torch']}, {built['compiler']}, stable ABI {built['stable_abi']}")
    )
    rows.append(("CUDA kernels", _cuda_kernels(torch, built, remedies)))
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            major, minor = torch.cuda.get_device_capability(index)
            rows.append((f"cuda:{index}", f"{torch.cuda.get_device_name(index)} (sm_{major}{minor})"))
    else:
        rows.append(("devices", "cpu (torch sees no GPU)"))
    return True


def _cuda_kernels(torch: Any, built: dict[str, Any], remedies: list[str]) -> str:
    from pconv_cuda.ops import extension

    cuda = extension.cuda_module()
    if cuda is not None:
        # A build in place without kernels does not remove the file of an earlier build.
        earlier = f"; of an earlier build, the last one made none ({built['no_cuda']})" if built["no_cuda"] else ""
        return f"for {cuda.architectures}{_toolkit(torch, cuda)}{earlier}"
    reason = extension.no_cuda_reason()
    if torch.version.cuda is None:
        return f"none: {reason}"
    remedies.append(f"CUDA kernels: {extension.cuda_remedy()}")
    return f"none: {reason}; CUDA tensors are served by the unfused reference"


def _toolkit(torch: Any, cuda: Any) -> str:
    """torch loads every CUDA runtime that lies beside its own, so that kernels for another major version load too."""
    version = getattr(cuda, "cuda", "")  # builds before 0.1.0's release do not say
    release = (torch.version.cuda or "").split(".")[0]
    if not version or version.split(".")[0] == release:
        return f", built by CUDA {version}" if version else ""
    return (
        f", built by CUDA {version} (torch is for CUDA {torch.version.cuda}: not tested, prefer the wheel +cu{release})"
    )


def _version(distribution: str) -> str:
    """Its version, or "installed": a module may come from a distribution of another name."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "present"
