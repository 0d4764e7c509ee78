"""``pconv selftest``: every family of kernels against the library's convolution, on this machine."""

from __future__ import annotations

import argparse
import platform

from pconv_cuda.devices import DEVICE_HELP, pick_device
from pconv_cuda.errors import PConvError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--device", default="auto", help=DEVICE_HELP)
    parser.add_argument(
        "--quick", action="store_true", help="one case of each family, as before its first use on a GPU"
    )


def run(args: argparse.Namespace) -> int:
    """Print a row for each family and dtype. Exit code 1 where anything is wrong."""
    import torch

    from pconv_cuda import __version__, selftest
    from pconv_cuda.ops import extension

    device = pick_device(args.device)
    if device.type not in ("cpu", "cuda"):
        raise PConvError(f"--device: expected cpu or cuda, which have kernels of ours, got {args.device}")
    if device.type == "cuda" and extension.cuda_module() is None:
        raise PConvError(f"--device: no CUDA kernels to check: {extension.no_cuda_reason()}")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    print(f"pconv-cuda {__version__}, torch {torch.__version__}, {device} ({name})")
    print(f"{'kernels':24}{'dtype':10}{'cases':>6}  worst error over what is allowed")
    paths, all_right = selftest.Paths(device), True
    for family in selftest.FAMILIES:
        if "wgmma" in family and (device.type == "cpu" or torch.cuda.get_device_capability(device) != (9, 0)):
            print(f"{family:24}{'-':10}{'-':>6}  not for this device")
            continue
        for dtype in selftest.DTYPES[1:]:
            if "wgmma" in family and dtype == torch.float32:
                continue
            text, right = _row(family, dtype, paths, args.quick)
            all_right &= right
            print(f"{family:24}{str(dtype).removeprefix('torch.'):10}{text}")
    print("all right" if all_right else "WRONG: please report this table with what `pconv info` prints")
    return 0 if all_right else 1


def _row(family: str, dtype: object, paths: object, quick: bool) -> tuple[str, bool]:
    from pconv_cuda import selftest

    try:
        found = selftest.run(family, dtype, paths, quick=quick)  # type: ignore[arg-type]
    except RuntimeError as error:
        return f"{'-':>6}  WRONG: {str(error).splitlines()[0]}", False
    worst = max(found, key=lambda each: each.ours / each.allowed)
    cases = len({each.case for each in found})
    verdict = "right" if worst.right else "WRONG"
    return f"{cases:6}  {worst.ours / worst.allowed:.2f} ({worst.result}), {verdict}", worst.right
