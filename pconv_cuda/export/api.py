"""``export_onnx`` and ``export_program``: written under a temporary name, checked, and then renamed."""

from __future__ import annotations

import copy
import json
import logging
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pconv_cuda import __version__
from pconv_cuda.errors import PConvError, require
from pconv_cuda.export.check import Difference, compare
from pconv_cuda.export.onnx_file import write_onnx
from pconv_cuda.export.plain_network import plain_twin
from pconv_cuda.export.tracing import traced
from pconv_cuda.files import atomic_path, temporary_folder
from pconv_cuda.inpainting.smooth_holes import SmoothFiller
from pconv_cuda.models import InpaintingNetwork
from pconv_cuda.named import load

if TYPE_CHECKING:
    from pconv_cuda.export.plain_network import PlainNetwork

__all__ = ["export_onnx", "export_program"]

_SAME_SIZE = r"L\['mask'\]\.size\(\)\[\d\] == L\['image'\]\.size\(\)\[\d\]"


def export_onnx(model: InpaintingNetwork | str | Path, path: str | Path, *, fp16: bool = False) -> Difference:
    """Write a network as an ONNX file for pictures of any batch, height and width.

    The file takes ``image``, float32 (N, C, H, W) in [0, 1], and ``mask``, float32 (N, 1, H, W), 1 where the picture is
    valid and 0 in holes, where nothing is read. It gives ``output``, float32 (N, C, H, W) in [0, 1], the picture itself
    where it is valid, and ``new_mask``, float32 (N, 1, H, W), 0 where a hole was too wide for the network. A prefill is
    in the file too. Its metadata say all this. Before it gets its name it is run by onnxruntime on ten sizes and
    compared with the network.

    Args:
        model: a network of :mod:`pconv_cuda.models`, which is not changed, or what ``--weights`` takes: a path, or one
            of the names ``"photo"``, ``"document"``, ``"smooth"``.
        path: of the file, ``.onnx``.
        fp16: whether weights and features are float16; inputs, outputs and the smooth fill stay float32.

    Returns:
        The largest difference, and where it was.

    Raises:
        PConvError: no such weights, another kind of network, a path with another ending or of a folder, or a difference
            above the tolerance; no file is written.
        MissingExtra: onnx, onnxscript or onnxruntime is not installed.
    """
    path = _file(path, ".onnx")
    for module in ("onnx", "onnxscript", "onnxruntime"):
        require(module, "export", why="the export to ONNX (the extra [export])")
    network, twin, channels = _prepared(model, fp16)
    program = traced(twin, channels, 1 if network is None else network.grid)
    with atomic_path(path) as temporary:
        write_onnx(program, temporary, _description(network, channels, fp16))
        return compare(_onnx_runner(temporary), network, channels, fp16)


def export_program(
    model: InpaintingNetwork | str | Path, path: str | Path, *, fp16: bool = False, compiled: bool = False
) -> Difference:
    """Write a network as a package of ``torch.export``, which torch alone runs, without this package.

    Inputs, outputs and the check are those of :func:`export_onnx`.

    Args:
        model, fp16: as there.
        path: of the file, ``.pt2``.
        compiled: whether it is compiled for this machine's CPU (AOTInductor), which needs a C++ compiler, and minutes
            for a network with a smooth fill; load it with ``torch._inductor.aoti_load_package(path)``. Else:
            ``torch.export.load(path).module()``.

    Raises:
        PConvError: as there, a name that does not end in ``.pt2``, or no C++ compiler that can compile it; no file is
            written.
    """
    path = _file(path, ".pt2")
    network, twin, channels = _prepared(model, fp16)
    program = traced(twin, channels, 1 if network is None else network.grid)
    with temporary_folder("pconv-export-") as folder, atomic_path(path) as temporary:
        file = folder / "network.pt2"  # torch's functions take no other ending
        run = _compiled(program, file) if compiled else _saved(program, file)
        difference = compare(run, network, channels, fp16)
        shutil.copyfile(file, temporary)
        return difference


def _file(path: str | Path, ending: str) -> Path:
    path = Path(path)
    if path.suffix.lower() != ending or path.is_dir():
        what = f"the folder {path}" if path.is_dir() else str(path)
        raise PConvError(f"path: expected a name ending in {ending}, got {what}")
    return path


def _prepared(model: InpaintingNetwork | str | Path, fp16: bool) -> tuple[InpaintingNetwork | None, PlainNetwork, int]:
    """The network on the CPU in eval mode (None for the smooth fill), its twin without gradients, and its channels."""
    found: Any = load(str(model), torch.device("cpu"), "model") if isinstance(model, str | Path) else model
    if isinstance(found, SmoothFiller):
        return None, plain_twin(None).eval().requires_grad_(False), 3
    if not isinstance(found, InpaintingNetwork):
        raise PConvError(f"model: expected a PConvUNet, a FillRefiner, a path or a name, got {type(found).__name__}")
    twin = plain_twin(found, fp16).eval().requires_grad_(False)
    network = copy.deepcopy(found).cpu().float().eval()
    return network, twin, network.in_channels


def _description(network: InpaintingNetwork | None, channels: int, fp16: bool) -> dict[str, str]:
    """What the file says about itself."""
    colours = {1: "grey", 3: "RGB"}.get(channels, f"{channels} channels")
    return {
        "producer": f"pconv-cuda {__version__}",
        "image": f"float32 (N, {channels}, H, W), {colours} in [0, 1]; not read where the mask is 0",
        "mask": "float32 (N, 1, H, W); 1 = valid, 0 = hole",
        "output": f"float32 (N, {channels}, H, W) in [0, 1]; the image where the mask is 1",
        "new_mask": "float32 (N, 1, H, W); 0 where the hole was too wide: there the output is 0",
        "mask_polarity": "1 = valid, 0 = hole",
        "value_range": "[0, 1]",
        "precision": "float16 inside, float32 outside" if fp16 and network is not None else "float32",
        "network": json.dumps(
            {"network": "smooth"} if network is None else {"network": network.kind, **network.config}
        ),
    }


def _onnx_runner(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(image: np.ndarray, mask: np.ndarray) -> Any:
        return tuple(session.run(["output", "new_mask"], {"image": image, "mask": mask}))

    return run


def _drop_guards(program: Any) -> None:
    """Those that hold for the example's sizes only; the check runs the file on other sizes."""
    if hasattr(program, "_guards_code"):  # private to torch: another version may have none
        program._guards_code = [each for each in program._guards_code if re.fullmatch(_SAME_SIZE, each)]


def _saved(program: Any, file: Path) -> Any:
    _drop_guards(program)
    torch.export.save(program, str(file))
    return _torch_runner(torch.export.load(str(file)).module())


def _compiled(program: Any, file: Path) -> Any:
    from torch._inductor import aoti_compile_and_package, aoti_load_package
    from torch.fx.experimental import _config

    logger = logging.getLogger("torch.utils.cpp_extension")  # it warns where there is no GPU
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with _config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
            aoti_compile_and_package(program, package_path=str(file))
    except Exception as error:  # of many kinds, of torch's compiler and of the C++ compiler that it calls
        raise PConvError(
            f"export: expected a C++ compiler, and a torch whose AOTInductor compiles the network (2.14 does; here is "
            f"{torch.__version__}), got {str(error).strip()[:500]}; the formats onnx and pt2 need neither"
        ) from error
    finally:
        logger.setLevel(level)
    return _torch_runner(aoti_load_package(str(file)))


def _torch_runner(module: Any) -> Any:
    def run(image: np.ndarray, mask: np.ndarray) -> Any:
        with torch.inference_mode():
            return tuple(each.numpy() for each in module(torch.from_numpy(image), torch.from_numpy(mask)))

    return run
