"""torch's setting for fp32 on CUDA: which name is read, and what backward is told about the forward."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from pconv_cuda.ops import tf32


@pytest.fixture(autouse=True)
def _restored():
    before = torch.backends.cudnn.conv.fp32_precision
    yield
    torch.backends.cudnn.conv.fp32_precision = before


def test_the_new_name_is_read_even_where_the_legacy_flag_raises() -> None:
    torch.backends.cudnn.allow_tf32 = True  # as torch begins; set to False, it agrees with the new one
    torch.backends.cudnn.conv.fp32_precision = "ieee"
    assert not tf32.tf32_allowed()
    with pytest.raises(RuntimeError):
        assert torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.conv.fp32_precision = "tf32"
    assert tf32.tf32_allowed()


def test_the_legacy_flag_is_read_where_there_is_no_new_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for allowed in (True, False):
        monkeypatch.setattr(torch.backends, "cudnn", SimpleNamespace(allow_tf32=allowed))
        assert tf32.tf32_allowed() is allowed
    monkeypatch.undo()


def test_the_legacy_flag_still_sets_what_we_read() -> None:
    before = torch.backends.cudnn.allow_tf32
    try:
        for allowed in (False, True):
            torch.backends.cudnn.allow_tf32 = allowed
            assert tf32.tf32_allowed() is allowed
    finally:
        torch.backends.cudnn.allow_tf32 = before


class OnCuda:
    """As much of a CUDA tensor as the question needs."""

    dtype = torch.float32
    device = torch.device("cuda")


def test_backward_is_told_the_forwards_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tf32, "Tensor", OnCuda)
    for setting, choice in (("tf32", 1), ("ieee", 0)):
        torch.backends.cudnn.conv.fp32_precision = setting
        assert tf32.choice_of(OnCuda(), -1) == choice
        assert tf32.choice_of(OnCuda(), 1 - choice) == 1 - choice  # a choice was made already
    assert tf32.choice_of(torch.zeros(1), -1) == -1  # the CPU knows no tf32
