"""Malicious files: convert, lpips, fid and vgg refuse them in one sentence, without running code or filling memory."""

from __future__ import annotations

import functools
import json
import os
import pickle
import re
import resource
import struct
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import foreign_networks as foreign
import h5py
import numpy as np
import pytest
import torch
from test_convert_networks import NAOTO

from pconv_cuda.convert import convert
from pconv_cuda.errors import PConvError
from pconv_cuda.evaluation.learned import find_inception, find_perceptual
from pconv_cuda.losses.vgg import VGG16Features


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """At most 4 GiB of address space more than now, and 30 seconds."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**32, before[1]))
    start = time.monotonic()
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)
    assert time.monotonic() - start < 30


class Call:
    """Runs a call when unpickled."""

    def __init__(self, function: Callable, *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple:
        return self.function, self.arguments


READERS = {
    "convert": lambda path: convert(path, path.parent / "out"),
    "lpips": lambda path: find_perceptual(str(path)),
    "fid": lambda path: find_inception(str(path)),
    "vgg": lambda path: VGG16Features(path),
}
PAYLOADS = {
    "os.system": lambda place: Call(os.system, f"touch {place}/ran"),
    "eval": lambda place: Call(eval, f"open({str(place / 'ran')!r}, 'w')"),
    "open": lambda place: Call(open, str(place / "ran"), "w"),
    "a module": lambda place: torch.nn.Conv2d(3, 4, 3),
    "a partial": lambda place: functools.partial(print, 1),
}


def refused(reader: str, path: Path, message: str) -> None:
    with pytest.raises(PConvError, match=message) as caught:
        READERS[reader](path)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 600, text
    assert not re.search("weights_only|add_safe_globals|trusted|Re-running|pytorch.org", text), text
    assert not (path.parent / "ran").exists() and not (path.parent / "out").exists()


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("reader", READERS)
def test_payloads_are_not_run(reader: str, payload: str, old: bool, tmp_path: Path) -> None:
    content = {"state_dict": {"a.weight": torch.ones(4, 3, 3, 3)}, "extra": PAYLOADS[payload](tmp_path)}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=not old)
    refused(reader, tmp_path / "a.pth", "nothing but tensors is unpickled")


@pytest.mark.parametrize("reader", READERS)
def test_plain_pickles_programs_and_junk(reader: str, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(pickle.dumps(Call(os.system, f"touch {tmp_path}/ran")))
    refused(reader, path, "unpickled|cannot be read")
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))
    refused(reader, path, "TorchScript program")
    for content in (
        b"\x80\x02" + b"(" * 10**5,
        b"c" * 1000,
        b"\x80\x02}q\x00.",
        b"PK\x03\x04",
        b"PK\x05\x06" + bytes(18),
    ):
        path.write_bytes(content)
        refused(reader, path, f"{path.name} ")
    path.write_bytes(b"")
    refused(reader, path, "is an empty file")
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    refused(reader, path, "git-lfs pointer")


SIZES = {
    "expanded": lambda: torch.ones(1).expand(2**20, 2**20, 3, 3),
    "expanded a little": lambda: torch.ones(8, 1, 1, 1).expand(8, 2**20, 3, 3),
    "sparse": lambda: torch.sparse_coo_tensor(
        torch.zeros(4, 1, dtype=torch.int64), torch.ones(1), (2**20, 2**20, 3, 3)
    ),
    "complex": lambda: torch.ones(4, 3, 3, 3, dtype=torch.complex64),
    "meta": lambda: torch.empty(2**20, 2**20, 3, 3, device="meta"),
    "quantised": lambda: torch.quantize_per_tensor(torch.ones(4, 3, 3, 3), 0.1, 0, torch.qint8),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("kind", SIZES)
@pytest.mark.parametrize("reader", READERS)
def test_tensors_that_are_not_in_the_file(reader: str, kind: str, old: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"features.0.weight": SIZES[kind]()}, path, _use_new_zipfile_serialization=not old)
    assert path.stat().st_size < 4000
    message = (
        "declares tensors of [0-9,]+: it is damaged" if "expanded" in kind else "expected a dense tensor|cannot be"
    )
    refused(reader, path, message)


def rewritten(path: Path, edit: Callable[[bytes], bytes], compression: int = zipfile.ZIP_STORED) -> None:
    """A checkpoint with another data.pkl."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, edit(content) if name.endswith("data.pkl") else content)


def test_a_storage_longer_than_its_record(tmp_path: Path) -> None:
    """What lies behind a record in memory is not read: the tensor would hold it."""
    path = tmp_path / "a.pth"
    torch.save({"a.weight": torch.ones(7, 3, 1, 1)}, path)  # 21 values, which the pickle says as one byte
    lie = 2**17  # small enough for the comparison with the size of the file

    def edit(content: bytes) -> bytes:
        assert content.count(b"K\x15") == 1 and content.count(b"K\x07K\x03K\x01K\x01") == 1
        content = content.replace(b"K\x15", b"J" + struct.pack("<i", lie))
        return content.replace(b"K\x07K\x03K\x01K\x01", b"J" + struct.pack("<i", lie // 4) + b"K\x04K\x01K\x01")

    rewritten(path, edit)
    refused("convert", path, "cannot be read as a checkpoint")


def test_a_compressed_archive(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"a.weight": torch.zeros(64, 64, 3, 3)}, path)
    rewritten(path, lambda content: content, zipfile.ZIP_DEFLATED)
    refused("convert", path, "is compressed, which torch.save never does")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    refused("convert", path, "is a zip archive, but none of torch.save")


def test_nested_without_end(tmp_path: Path) -> None:
    content: dict = {}
    content["a"] = {"b": content, "w": torch.ones(4, 3, 3, 3)}
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(PConvError):
        convert(tmp_path / "a.pth", tmp_path / "out")
    deep: dict = {"w": torch.ones(1)}
    for _ in range(200):
        deep = {"a": deep}
    torch.save(deep, tmp_path / "a.pth")
    refused("convert", tmp_path / "a.pth", "no state_dict of convolutions")


def test_tied_weights_still_load(tmp_path: Path) -> None:
    """Tensors that share their values are accepted."""
    state = foreign.checkpoint(foreign.random_network(foreign.without_sum, 3), **NAOTO)
    twice = {"model": state, "ema": OrderedDict(state)}
    torch.save(twice, tmp_path / "a.pth")
    assert convert(tmp_path / "a.pth").source == "naoto0804"


# .h5 -------------------------------------------------------------------------------------------------------------


def h5(path: Path, fill: Callable[[h5py.File], object]) -> Path:
    with h5py.File(path, "w") as file:
        fill(file)
    return path


H5 = {
    "chunks that are not there": (
        lambda file: file.create_dataset("p_conv2d/img_kernel", (10**4, 10**4, 10**4), "f4", chunks=(1, 1, 1000)),
        "declares 4,000,000,000,000 in p_conv2d/img_kernel",
    ),
    "many of them": (
        lambda file: [file.create_dataset(f"a{i}/kernel", (2**16,), "f8", chunks=(1024,)) for i in range(64)],
        "damaged or made to harm",
    ),
    "a compressed bomb": (
        lambda file: file.create_dataset("a/kernel", data=np.zeros(2**24), compression="gzip", chunks=(2**20,)),
        "damaged or made to harm",
    ),
    "another file": (
        lambda file: file.create_dataset("a/kernel", (4,), "f8", external=[("/etc/passwd", 0, 32)]),
        "a/kernel refers to another file",
    ),
    "text": (lambda file: file.create_dataset("a/kernel", data=["x"]), "a/kernel: expected numbers"),
    "complex": (lambda file: file.create_dataset("a/kernel", data=np.ones(3, complex)), "expected numbers"),
    "a link elsewhere": (
        lambda file: file.update({"a": h5py.ExternalLink("/etc/passwd", "/"), "b": h5py.SoftLink("/b")}),
        "no weights in",
    ),
    "a Lambda layer": (
        lambda file: file.attrs.update(
            model_config=json.dumps(
                {"config": {"layers": [{"class_name": "Lambda", "config": {"function": ["4wEA"]}}]}}
            )
        ),
        r"holds Python code \(a Lambda layer\), which is not run here",
    ),
}


@pytest.mark.parametrize("kind", H5)
def test_h5_files(kind: str, tmp_path: Path) -> None:
    fill, message = H5[kind]
    path = h5(tmp_path / "a.h5", fill)
    assert path.stat().st_size < 2**20
    refused("convert", path, message)


def test_other_files_called_h5(tmp_path: Path) -> None:
    for content, message in (
        (b"", "it is an empty file"), (b"version https://git-lfs", "git-lfs"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "not a readable HDF5"),
        (b"PK\x03\x04", "it is a PyTorch checkpoint"), (b"x" * 100, "not a readable HDF5"),
    ):  # fmt: skip
        (tmp_path / "a.h5").write_bytes(content)
        refused("convert", tmp_path / "a.h5", message)
    whole = h5(tmp_path / "b.h5", lambda file: file.create_dataset("a/kernel", data=np.ones(10**4))).read_bytes()
    for size in (100, 2000, len(whole) - 10):
        (tmp_path / "a.h5").write_bytes(whole[:size])
        refused("convert", tmp_path / "a.h5", "file: ")
    (tmp_path / "a.keras").write_bytes(b"PK\x03\x04")
    refused("convert", tmp_path / "a.keras", "it is a Keras archive")


# Outputs -----------------------------------------------------------------------------------------------------------


def test_links_in_the_output_are_replaced_not_followed(tmp_path: Path) -> None:
    state = foreign.checkpoint(foreign.random_network(foreign.without_sum, 3), **NAOTO)
    torch.save(state, tmp_path / "a.pth")
    out = tmp_path / "out"
    out.mkdir()
    precious = json.dumps({"file": "a.pth", "precious": True})  # an earlier conversion, or the folder is refused
    for name in ("model.safetensors", "config.json", "conversion.json"):
        (tmp_path / f"other-{name}").write_text(precious)
        (out / name).symlink_to(tmp_path / f"other-{name}")
    convert(tmp_path / "a.pth", out)
    for name in ("model.safetensors", "config.json", "conversion.json"):
        assert (tmp_path / f"other-{name}").read_text() == precious
        assert not (out / name).is_symlink() and (out / name).stat().st_size > 8
