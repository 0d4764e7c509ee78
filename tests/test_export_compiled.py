"""``pconv export --format aoti``: compiled packages, run by torch alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from export_support import few_levels, network

import pconv_cuda
from pconv_cuda import cli
from pconv_cuda.errors import PConvError
from pconv_cuda.export import api
from pconv_cuda.export.plain_fill import PlainSmoothFill
from pconv_cuda.inpainting import inpaint
from pconv_cuda.models import InpaintingNetwork
from pconv_cuda.named import load_named

compiles_fills = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 12),
    reason="torch 2.11's Inductor cannot compile a smooth fill",
)
SIZES = ((2, 33, 17), (1, 75, 110), (3, 1, 40), (1, 131, 64))  # (N, H, W)
# A process that cannot import this package: the outputs of the package for each pair of inputs.
ALONE = """
import sys, torch
sys.modules["pconv_cuda"] = None
run = torch._inductor.aoti_load_package(sys.argv[1])
inputs = torch.load(sys.argv[2])
torch.save([run(image, mask) for image, mask in inputs], sys.argv[3])
"""


def scenes(channels: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Pictures in [0, 1] with NaN in the holes, and their masks: random pixels and a block."""
    draw = torch.Generator().manual_seed(3)
    made = []
    for n, height, width in SIZES:
        image = torch.rand((n, channels, height, width), generator=draw)
        mask = (torch.rand((n, 1, height, width), generator=draw) > 0.3).float()
        mask[..., height // 4 : height // 2, width // 4 : width // 2] = 0
        mask[..., -1, -1] = 1
        made.append((torch.where(mask > 0, image, torch.nan), mask))
    return made


def answers(package: Path, channels: int, folder: Path) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The package's, in a fresh process with torch alone."""
    torch.save(scenes(channels), folder / "inputs.pt")
    files = [str(package), str(folder / "inputs.pt"), str(folder / "outputs.pt")]
    subprocess.run([sys.executable, "-c", ALONE, *files], check=True, cwd=folder)
    return torch.load(folder / "outputs.pt")


@pytest.mark.full("networks compiled by AOTInductor, minutes")
@pytest.mark.parametrize(
    ("name", "half"),
    [
        ("grey", False),
        pytest.param("prefill", False, marks=compiles_fills),
        pytest.param("refiner", True, marks=compiles_fills),
    ],
)
def test_networks_are_compiled(name: str, half: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few_levels(monkeypatch)
    model = network(name)
    found = pconv_cuda.export_program(model, tmp_path / "x.pt2", fp16=half, compiled=True)
    assert found.largest <= found.tolerance == (5e-2 if half else 1e-4 if name == "grey" else 3e-4)
    for (image, mask), (output, new_mask) in zip(
        scenes(model.in_channels), answers(tmp_path / "x.pt2", model.in_channels, tmp_path), strict=True
    ):
        assert torch.equal(output[mask.expand_as(output) > 0], image[mask.expand_as(image) > 0])
        if name == "grey":  # else inpaint: the network with its smooth fill
            with torch.inference_mode():
                answer, closed = model(model.normalize(torch.where(mask > 0, image, 0)), mask)
            wanted = torch.where(closed, model.denormalize(answer), 0.0)
            assert torch.equal(new_mask, closed.float())
        else:
            wanted = inpaint(model, torch.where(mask > 0, image, 0), mask, polarity="black-hole")
            assert bool(new_mask.all())
        difference = torch.where(mask > 0, 0, (output - wanted).abs()).max()
        assert difference < (3e-2 if half else 3e-3), (image.shape, difference)


@compiles_fills
@pytest.mark.full("the packaged network compiled by AOTInductor, three minutes")
@pytest.mark.timeout(1800)  # where other programs want the cores
def test_the_packaged_network_is_compiled_whole(tmp_path: Path) -> None:
    assert cli.main(["export", "-o", str(tmp_path / "photo.pt2"), "--format", "aoti"]) == 0
    model = load_named("photo", torch.device("cpu"))
    assert isinstance(model, InpaintingNetwork)
    for (image, mask), (output, new_mask) in zip(scenes(3), answers(tmp_path / "photo.pt2", 3, tmp_path), strict=True):
        wanted = inpaint(model, torch.where(mask > 0, image, 0), mask, polarity="black-hole")
        assert (output - wanted).abs().max() < 1e-2 and bool(new_mask.all())  # the operator stops earlier on noise


# Without a compiler: the graph is run as it is -----------------------------------------------------------------------


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """In place of AOTInductor's functions; the list holds the graphs."""
    programs: list[object] = []

    def package(program, package_path: str) -> None:
        api._drop_guards(program)
        programs.append(program)
        Path(package_path).write_bytes(b"compiled")

    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", package)
    monkeypatch.setattr(torch._inductor, "aoti_load_package", lambda path: programs[-1].module())  # type: ignore[attr-defined]
    return programs


def test_the_graph_that_is_compiled_holds_the_smooth_fill(
    tmp_path: Path, uncompiled: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_levels(monkeypatch)
    found = pconv_cuda.export_program(network("prefill"), tmp_path / "x.pt2", compiled=True)
    assert found.largest <= found.tolerance == 3e-4 and (tmp_path / "x.pt2").read_bytes() == b"compiled"
    graphs = [module.graph for module in uncompiled[0].graph_module.modules() if hasattr(module, "graph")]
    targets = [str(node.target) for graph in graphs for node in graph.nodes]
    assert "while_loop" in targets and not [target for target in targets if "pconv" in target]


def test_no_level_of_the_fill_is_pooled(tmp_path: Path, uncompiled: list, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chain of poolings becomes one loop, whose code grows fourfold with each level."""
    few_levels(monkeypatch)
    pconv_cuda.export_program("smooth", tmp_path / "x.pt2", compiled=True)
    pools = [
        node
        for module in uncompiled[0].graph_module.modules()
        if hasattr(module, "graph")
        for node in module.graph.nodes
        if "pool" in str(node.target)
    ]
    assert all(node.args[1] == [3, 3] for node in pools) and len(pools) <= 1  # that of the pixels beside a hole


@pytest.mark.parametrize("mistake", ["start", "ratio", "new mask", "nan"])
def test_a_wrong_package_leaves_no_file(
    mistake: str, tmp_path: Path, uncompiled: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_levels(monkeypatch)
    name, message = "grey", "expected the network's output within"
    if mistake == "start":
        name = "prefill"
        monkeypatch.setattr(PlainSmoothFill, "_solve", lambda self, start, levels: torch.zeros_like(start))
    else:
        right = api._torch_runner

        def wrong(module):
            def run(image: np.ndarray, mask: np.ndarray):
                output, new_mask = right(module)(image, mask)
                if mistake == "ratio":
                    output = np.where(mask > 0, output, output * np.float32(1.01))
                if mistake == "nan":
                    output = output * np.float32(np.nan)
                return output, 1 - new_mask if mistake == "new mask" else new_mask

            return run

        monkeypatch.setattr(api, "_torch_runner", wrong)
        message = "another in" if mistake == "new mask" else message
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(PConvError, match=message):
        pconv_cuda.export_program(network(name), out / "x.pt2", compiled=True)
    assert not list(out.iterdir())


def test_a_missing_compiler_is_named_with_the_formats_that_need_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    from torch._inductor import config

    network("grey").save_pretrained(tmp_path / "weights")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))  # with nothing compiled before
    out = tmp_path / "out"
    out.mkdir()
    arguments = ["export", "--weights", str(tmp_path / "weights"), "-o", str(out / "x.pt2"), "--format", "aoti"]
    with config.patch({"cpp.cxx": ("absent-compiler",)}):  # monkeypatch would take the option away at the end
        assert cli.main(arguments) == 1
    said = capsys.readouterr().err
    assert "expected a C++ compiler" in said and "absent-compiler" in said
    assert "the formats onnx and pt2 need neither" in said and "Traceback" not in said
    assert not list(out.iterdir())
