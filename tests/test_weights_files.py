"""What ``from_pretrained`` refuses: other kinds of files, lying headers, malicious configs."""

from __future__ import annotations

import json
import resource
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch

from pconv_cuda import PConvUNet
from pconv_cuda.errors import PConvError
from pconv_cuda.models import load_network, weights


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """At most 2 GiB of address space more than now: allocating what a file claims fails."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**31, before[1]))
    start = time.monotonic()
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)
    assert time.monotonic() - start < 30


def file_of(config: object, path: Path, header: dict | None = None, data: bytes = b"") -> Path:
    """A .safetensors file by hand."""
    text = config if isinstance(config, str) else json.dumps(config)
    raw = json.dumps({"__metadata__": {"config": text}, **(header or {})}).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)
    return path


def refused(path: Path, message: str) -> None:
    with pytest.raises(PConvError, match=message) as caught:
        PConvUNet.from_pretrained(path)
    assert len(str(caught.value)) < 1000 and "\n" not in str(caught.value)


CONFIGS = {
    "levels": ({"levels": 10**9}, "levels: expected at most 12, got 1000000000"),
    "in_channels": ({"in_channels": 10**9}, "in_channels: expected at most 1024"),
    "width": ({"width": 10**9}, "width: expected at most 8192"),
    "large": ({"levels": 12, "width": 8192}, "do not fit its config: encoder.0.conv.weight is missing; .* more"),
    "windows": ({"levels": 2, "windows": [10**9 + 1, 3]}, "windows: expected 2 odd sizes"),
    "many windows": ({"levels": 2, "windows": [3] * 10**4}, "windows: expected 2 odd sizes"),
    "std 0": ({"std": [0.2, 0, 0.2]}, "std: expected numbers of at least 1e-06"),
    "std negative": ({"std": [0.2, -0.2, 0.2]}, "std: expected numbers of at least 1e-06"),
    "std NaN": ('{"std": [0.2, NaN, 0.2]}', "std: expected numbers of at least 1e-06"),
    "std infinite": ('{"std": [0.2, 1e999, 0.2]}', "std: expected numbers of at least 1e-06"),
    "mean NaN": ('{"mean": [NaN, 0, 0]}', "mean: expected finite numbers"),
    "mean infinite": ('{"mean": [0, -Infinity, 0]}', "mean: expected finite numbers"),
    "mean text": ({"mean": "abc"}, "does not describe a PConvUNet"),
    "mean nested": ({"mean": [[1], [1], [1]]}, "does not describe a PConvUNet"),
    "deep": ('{"a":' * 10**5 + "1" + "}" * 10**5, "not valid JSON"),
    "digits": ('{"levels": ' + "9" * 10**5 + "}", "not valid JSON"),
    "list": ("[1]", "expected to be a JSON object"),
    "unknown": ({"depth": 3}, "does not describe a PConvUNet"),
    "code": ({"conv": {"__reduce__": "os.system"}}, "conv: expected 'partial' or 'plain'"),
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("beside", [False, True])
def test_configs_made_to_harm(name: str, beside: bool, tmp_path: Path) -> None:
    config, message = CONFIGS[name]
    file = file_of(config, tmp_path / "model.safetensors")
    assert name in ("deep", "digits", "many windows") or file.stat().st_size < 250
    if beside:
        (tmp_path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
        file.write_bytes(struct.pack("<Q", 2) + b"{}")
    refused(tmp_path, message)


def test_a_large_or_unreadable_config_beside(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    (tmp_path / "config.json").write_text(" " * 2**21 + "{}")
    refused(tmp_path, "expected to be small")
    (tmp_path / "config.json").write_bytes(b"\xff\xfe{}")
    refused(tmp_path, "not valid JSON")


def entry(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "header",
    [
        {"a": entry([10**12], 0, 4 * 10**12)},
        {"a": entry([10**12], 0, 16)},
        {"a": entry([4], 16, 32)},
        {"a": entry([4], -16, 0)},
        {"a": entry([2**40, 2**40], 0, 16)},
        {"a": entry([4], 0, 16), "b": entry([4], 0, 16)},
        {"a": entry([4], 0, 16, "F128")},
        {"a": entry([4], 8, 16)},
    ],
    ids=str,
)
def test_lying_headers(header: dict, tmp_path: Path) -> None:
    refused(file_of({"levels": 1}, tmp_path / "a.safetensors", header, bytes(16)), "not a readable safetensors file")


def test_cut_and_lying_files(tmp_path: Path) -> None:
    whole = PConvUNet(levels=1, width=2).save_pretrained(tmp_path / "w").read_bytes()
    cut = tmp_path / "a.safetensors"
    for size in (1, 7, 8, 100, len(whole) - 1):
        cut.write_bytes(whole[:size])
        refused(cut, "not a readable safetensors file")
    for length in (2**63, 2**64 - 1, 10**9):
        cut.write_bytes(struct.pack("<Q", length) + whole[8:])
        refused(cut, "not a readable safetensors file")


def test_integers_in_place_of_weights(tmp_path: Path) -> None:
    model = PConvUNet(levels=1, width=2)
    state = model.state_dict()
    state["encoder.0.conv.weight"] = torch.ones(2, 3, 7, 7, dtype=torch.int64)
    safetensors.torch.save_file(state, tmp_path / "a.safetensors", metadata={"config": json.dumps(model.config)})
    refused(tmp_path / "a.safetensors", r"encoder.0.conv.weight: expected torch.float32, got torch.int64")


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 123\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pth", None, "is a PyTorch checkpoint; convert it: pconv convert .*a.pth -o OUT"),
        ("a.ckpt", None, "is a PyTorch checkpoint; convert it"),
        ("renamed.safetensors", None, "is a PyTorch checkpoint; convert it"),
        ("old.pt", b"\x80\x02\x8a\nl\xfc\x9cF", "PyTorch checkpoint of the old format, or another pickle; convert it"),
        ("a.h5", b"\x89HDF\r\n\x1a\n", r"is an HDF5 file \(Keras\); convert it: pconv convert"),
        ("a.bin", b"whatever", "is a .bin file; convert it"),
        ("a.pth", LFS, "is a git-lfs pointer.*git lfs pull"),
        ("model.safetensors", LFS, "is a git-lfs pointer.*git lfs pull"),
        ("a.safetensors", b"", "is an empty file"),
        ("a.pth", b"", "is an empty file"),
        ("a.safetensors", b"<!DOCTYPE html><html>", "is a web page"),
        ("a.safetensors", b"nonsense", "not a readable safetensors file"),
    ],
)
def test_other_files_are_named(name: str, content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is None:
        torch.save({"state_dict": {"a": torch.ones(3)}}, tmp_path / name)
    else:
        (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, message)


def test_paths_without_weights_are_refused(tmp_path: Path) -> None:
    refused(tmp_path / "nothing", "expected a folder with model.safetensors or a .safetensors file, but .* not exist$")
    refused(tmp_path, "found none at .*model.safetensors$")
    (tmp_path / "G.pth").write_bytes(b"\x80\x02")
    refused(tmp_path, "but G.pth beside it: pconv convert .*G.pth -o OUT")
    (tmp_path / "G.pth").unlink()
    (tmp_path / "other.safetensors").write_bytes(b"")
    refused(tmp_path, "but other.safetensors beside it: name that file")
    (tmp_path / "other.safetensors").unlink()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    refused(tmp_path, "carries no config, and there is no config.json beside it")
    refused(Path("/dev/null"), "neither a file nor a folder")


def test_nothing_is_allocated_before_shapes_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A config of 280 GB of weights beside a file of 8 bytes; and of a file that fits, tensors are read once."""
    file = file_of({"levels": 8, "width": 8192}, tmp_path / "a.safetensors")
    monkeypatch.setattr(weights, "load_safetensors", lambda *_: pytest.fail("tensors were read"))
    refused(file, "do not fit its config")


def test_what_is_no_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(PConvError, match="weights: expected a path or a name, got int"):
        load_network(3)  # type: ignore[arg-type]
    (tmp_path / "photo.png").write_text("mine")
    with pytest.raises(PConvError, match=r"folder: expected a folder, or a name that is free, got .*photo.png"):
        PConvUNet(levels=2, width=2).save_pretrained(tmp_path / "photo.png")
    assert (tmp_path / "photo.png").read_text() == "mine"
