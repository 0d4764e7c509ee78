"""``pconv export``: the files, run as other programs run them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from export_support import few_levels, network

import pconv_cuda
from pconv_cuda import cli, errors
from pconv_cuda.errors import MissingExtra, PConvError
from pconv_cuda.export import plain_network
from pconv_cuda.export.onnx_file import _used
from pconv_cuda.inpainting import inpaint

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra [export] is not installed")
onnx = pytest.importorskip("onnx", reason="the extra [export] is not installed")
pytest.importorskip("onnxscript", reason="the extra [export] is not installed")


def run(path: Path, image: np.ndarray, mask: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"image": image, "mask": mask})


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "unet.onnx"
    found = pconv_cuda.export_onnx(network("unet"), path)
    assert found.largest <= found.tolerance == 1e-4 and len(found.sizes) == 10
    return path


def test_the_file_gives_what_the_network_gives_at_a_size_of_its_own(exported: Path) -> None:
    model = network("unet")
    image, mask = torch.rand(3, 3, 91, 118), (torch.rand(3, 1, 91, 118) > 0.3).float()
    mask[..., 20:60, 30:90] = 0
    output, new_mask = run(exported, image.numpy(), mask.numpy())
    with torch.inference_mode():
        answer, closed = model(model.normalize(image), mask)
    wanted = torch.where(mask > 0, image, torch.where(closed, model.denormalize(answer), 0.0))
    assert np.abs(output - wanted.numpy()).max() < 1e-4
    assert np.array_equal(new_mask, closed.float().numpy())


def test_the_file_says_what_it_takes(exported: Path) -> None:
    model = onnx.load(exported)
    onnx.checker.check_model(model, full_check=True)
    inputs = {each.name: [axis.dim_param or axis.dim_value for axis in each.type.tensor_type.shape.dim]
              for each in (*model.graph.input, *model.graph.output)}  # fmt: skip
    assert inputs == {
        "image": ["batch", 3, "height", "width"],
        "mask": ["batch", 1, "height", "width"],
        "output": ["batch", 3, "height", "width"],
        "new_mask": ["batch", 1, "height", "width"],
    }
    said = {each.key: each.value for each in model.metadata_props}
    assert said["mask_polarity"] == "1 = valid, 0 = hole" and said["value_range"] == "[0, 1]"
    assert said["image"].startswith("float32 (N, 3, H, W), RGB in [0, 1]")
    assert {"mask", "output", "new_mask", "precision", "producer"} <= set(said)
    assert json.loads(said["network"])["levels"] == 3
    assert b"/pconv_cuda/" not in exported.read_bytes()  # no path of the machine that wrote it


def test_no_operator_is_of_a_domain_of_its_own(exported: Path) -> None:
    assert {node.domain for node in onnx.load(exported).graph.node} == {""}


@pytest.mark.parametrize(
    "name", ["prefill", *(pytest.param(each, marks=pytest.mark.full("exports of more networks"))
                          for each in ("plain", "published", "grey", "plain-prefill", "refiner", "partial-refiner"))]
)  # fmt: skip
def test_networks_of_every_kind_are_written(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few_levels(monkeypatch)
    found = pconv_cuda.export_onnx(network(name), tmp_path / "network.onnx")
    assert found.largest <= found.tolerance
    graph = onnx.load(tmp_path / "network.onnx").graph
    assert {each.name for each in graph.initializer} <= _used(graph)  # of others onnxruntime warns


def test_half_precision_halves_the_file(exported: Path, tmp_path: Path) -> None:
    found = pconv_cuda.export_onnx(network("unet"), tmp_path / "half.onnx", fp16=True)
    assert 1e-5 < found.largest <= found.tolerance
    kinds = {each.data_type for each in onnx.load(tmp_path / "half.onnx").graph.initializer if len(each.dims) == 4}
    assert onnx.TensorProto.FLOAT16 in kinds
    assert (tmp_path / "half.onnx").stat().st_size < 0.7 * exported.stat().st_size


@pytest.mark.full("the packaged network as ONNX, a minute and a half")
def test_the_packaged_network_is_written_whole(tmp_path: Path) -> None:
    assert cli.main(["export", "-o", str(tmp_path / "photo.onnx")]) == 0
    image = np.random.default_rng(0).random((1, 3, 75, 110), np.float32)  # its fill overshoots 0 and 1
    mask = np.ones((1, 1, 75, 110), np.float32)
    mask[..., 20:50, 30:80] = 0
    output, new_mask = run(tmp_path / "photo.onnx", image, mask)
    wanted = inpaint("photo", torch.from_numpy(image), torch.from_numpy(mask)).numpy()
    assert np.abs(output - wanted).max() < 3e-3 and new_mask.all()


def test_a_wrong_twin_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    network("grey").save_pretrained(tmp_path / "weights")
    right = plain_network._folded

    def wrong(stage, stride):
        made = right(stage, stride)
        made.full *= 1.02
        return made

    monkeypatch.setattr(plain_network, "_folded", wrong)
    out = tmp_path / "out"
    out.mkdir()
    for name in ("x.onnx", "x.pt2"):
        assert cli.main(["export", "--weights", str(tmp_path / "weights"), "-o", str(out / name)]) == 1
        assert "expected the network's output within 0.0001 of" in capsys.readouterr().err
    assert not list(out.iterdir())


def test_the_command_writes_a_package_that_torch_runs_alone(tmp_path: Path, capsys) -> None:
    network("grey").save_pretrained(tmp_path / "weights")
    out = tmp_path / "network.pt2"
    assert cli.main(["export", "--weights", str(tmp_path / "weights"), "-o", str(out)]) == 0
    said = capsys.readouterr()
    assert re.match(r".*/network.pt2: 0\.\d MiB; largest difference from the network", said.out)
    assert not said.err  # that it takes minutes is said of a smooth fill alone
    program = torch.export.load(str(out))
    assert not [node for node in program.graph.nodes if "pconv" in str(node.target)]
    image, mask = torch.rand(1, 1, 31, 5), torch.ones(1, 1, 31, 5)
    output, new_mask = program.module()(image, mask)
    assert torch.equal(output, image) and new_mask.all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "x.bin"], "-o: expected a name ending in .onnx or .pt2, got x.bin"),
        (["-o", "x.pt2", "--format", "onnx"], "-o: expected a name ending in .onnx, got x.pt2"),
        (["-o", "x.onnx", "--format", "aoti"], "-o: expected a name ending in .pt2, got x.onnx"),
        (["-o", "x.onnx", "--weights", "absent"], "absent does not exist"),
        (["-o", "x.pt2", "--weights", "absent", "--format", "aoti"], "absent does not exist"),
    ],
)
def test_wrong_calls_are_refused(arguments: list[str], message: str, capsys) -> None:
    assert cli.main(["export", *arguments]) == 1
    assert message in capsys.readouterr().err


def test_missing_extras_of_the_export_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.setattr(errors, "_requirements", lambda extra: ["onnxscript"] if extra == "export" else [])
    with pytest.raises(MissingExtra, match=r"extra \[export\]\) needs .*'onnxscript'.*pip install onnxscript"):
        pconv_cuda.export_onnx(network("grey"), tmp_path / "x.onnx")


def test_the_endings_of_the_api_are_checked(tmp_path: Path) -> None:
    with pytest.raises(PConvError, match="path: expected a name ending in .pt2, got"):
        pconv_cuda.export_program(network("grey"), tmp_path / "x.onnx")
