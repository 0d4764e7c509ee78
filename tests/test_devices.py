"""--device: valid names, what torch finds, and the errors."""

from __future__ import annotations

import pytest
import torch
import torch._dynamo  # what it reads of torch.cuda must not be patched when it is imported

from pconv_cuda import PConvUNet, cli
from pconv_cuda.devices import pick_device
from pconv_cuda.errors import PConvError


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    if hasattr(torch, "xpu"):
        monkeypatch.setattr(torch.xpu, "is_available", lambda: False)


@pytest.mark.parametrize(
    ("text", "device"),
    [("auto", "cuda"), ("cpu", "cpu"), ("cuda", "cuda"), ("cuda:0", "cuda:0"), ("cuda:1", "cuda:1"), ("mps", "mps")],
)
def test_devices_that_are_there(two_gpus: None, text: str, device: str) -> None:
    assert pick_device(text) == torch.device(device)


def test_auto_without_a_gpu(no_gpu: None) -> None:
    assert pick_device("auto") == torch.device("cpu") == pick_device("cpu")


@pytest.mark.parametrize("text", ["cuda", "cuda:0", "mps", "xpu", "cpu:1"])
def test_devices_that_are_not_there(no_gpu: None, text: str) -> None:
    with pytest.raises(PConvError, match=rf"^device: torch does not find {text}.*, but cpu; use one of these"):
        pick_device(text)


def test_a_gpu_too_many(two_gpus: None) -> None:
    with pytest.raises(PConvError, match="^on: torch does not find cuda:2.*, but cpu, cuda:0, cuda:1"):
        pick_device("cuda:2", "on")


@pytest.mark.parametrize("text", ["", "gpu", "CUDA", "cuda:", "cuda:-1", "cuda:x", "0", "meta", "cuda:9999"])
def test_invalid_device_names_are_refused(no_gpu: None, text: str) -> None:
    with pytest.raises(PConvError, match="device: expected auto, cpu, cuda, cuda:N, mps or xpu, got"):
        pick_device(text)


def test_commands_use_the_same_device_check(no_gpu: None, tmp_path, capsys) -> None:
    from PIL import Image

    PConvUNet(levels=1, width=2).save_pretrained(tmp_path / "w")
    Image.new("RGB", (8, 8)).save(tmp_path / "p.png")
    Image.new("L", (8, 8)).save(tmp_path / "m.png")
    (tmp_path / "d").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "d" / "p.png")
    weights = ["--weights", str(tmp_path / "w")]
    for call in (
        [
            "inpaint",
            str(tmp_path / "p.png"),
            "--mask",
            str(tmp_path / "m.png"),
            "-o",
            str(tmp_path / "o.png"),
            *weights,
        ],
        ["eval", "--images", str(tmp_path / "d"), "--out", str(tmp_path / "r"), *weights],
    ):
        assert cli.main([*call, "--device", "cuda:3"]) == 1
        assert "--device: torch does not find cuda:3" in capsys.readouterr().err
