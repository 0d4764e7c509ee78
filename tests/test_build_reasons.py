"""What a build says of its CUDA kernels: the recorded reason why there are none, and why existing ones do not load."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from pconv_cuda import cli
from pconv_cuda.ops import extension, fallback


@pytest.fixture
def built_without(monkeypatch):
    """A build whose kernels were left out, on a torch with CUDA."""
    real = extension.load().build_info()
    reason = "/opt/cuda/bin/nvcc is CUDA 12.9, torch 2.14.1 was built for CUDA 13.0"
    module = SimpleNamespace(build_info=lambda: {**real, "no_cuda": reason})
    monkeypatch.setattr(extension, "_module", module)
    monkeypatch.setattr(extension, "_cuda_module", None)
    monkeypatch.setattr(extension, "_cuda_error", "")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    return reason


def test_this_build_has_kernels_or_a_reason() -> None:
    assert isinstance(extension.load().build_info()["no_cuda"], str)
    assert (extension.cuda_module() is None) == bool(extension.no_cuda_reason())


def test_info_prints_the_recorded_reason_and_the_remedy(built_without: str, capsys) -> None:
    assert cli.main(["info"]) == 0
    said = capsys.readouterr().out
    assert f"none: {built_without}; CUDA tensors are served by the unfused reference" in said
    assert "CUDA kernels: with the toolkit of CUDA 13 (nvcc)" in said and "--no-build-isolation" in said


def test_info_names_kernels_of_an_earlier_build(built_without: str, monkeypatch, capsys) -> None:
    monkeypatch.setattr(extension, "_cuda_module", SimpleNamespace(architectures="8.0"))
    assert cli.main(["info"]) == 0
    assert f"of an earlier build, the last one made none ({built_without})" in capsys.readouterr().out


def test_a_cuda_tensor_on_the_fallback_gets_the_reason_once(built_without: str, monkeypatch, recwarn) -> None:
    monkeypatch.setattr(fallback, "_warned", set())
    monkeypatch.delenv("PCONV_FALLBACK", raising=False)
    for _ in range(2):
        fallback.note(torch.device("cuda"))
    assert [built_without in str(warning.message) for warning in recwarn] == [True]
    monkeypatch.setenv("PCONV_FALLBACK", "0")
    with pytest.raises(RuntimeError, match=r"is CUDA 12\.9"):
        fallback.note(torch.device("cuda"))


def test_the_fallback_on_an_old_device_does_not_blame_the_build(monkeypatch) -> None:
    monkeypatch.setattr(fallback, "_warned", set())
    monkeypatch.setattr(extension, "_cuda_module", SimpleNamespace(architectures="8.0"))
    with pytest.warns(UserWarning, match="compute capability 8.0 or later"):
        fallback.note(torch.device("cuda"))


def test_kernels_that_do_not_load_are_a_reason_too(built_without: str, monkeypatch) -> None:
    monkeypatch.setattr(extension, "_cuda_error", "undefined symbol")
    assert "do not fit torch" in extension.no_cuda_reason() and "undefined symbol" in extension.no_cuda_reason()
    monkeypatch.setattr(torch.version, "cuda", None)
    assert extension.no_cuda_reason() == "this torch was built without CUDA"


def test_a_wheel_for_another_cuda_names_both_and_the_remedy(built_without: str, monkeypatch, capsys) -> None:
    """The wheel +cu12 beside a torch for CUDA 13: everything but the kernels works."""
    said = "libcudart.so.12: cannot open shared object file: No such file or directory"

    def load_without_the_library(name: str) -> None:
        assert name == "pconv_cuda._C_cuda"
        raise ImportError(said)

    with monkeypatch.context() as loading:
        loading.setattr(extension.importlib, "import_module", load_without_the_library)
        loading.setattr(extension.importlib.util, "find_spec", lambda name: name)
        with pytest.warns(UserWarning) as warned:
            extension._load_cuda()
    cause = f"the CUDA kernels were built for CUDA 12, torch {torch.__version__} for CUDA 13.0 ({said})"
    remedy = "install the wheel +cu13 instead of +cu12, or a torch for CUDA 12; or build with the toolkit of CUDA 13"
    assert cause in str(warned[0].message) and remedy in str(warned[0].message)
    assert cli.main(["info"]) == 0
    printed = capsys.readouterr().out
    assert f"none: {cause}; CUDA tensors" in printed and f"CUDA kernels: {remedy}" in printed


def test_a_missing_library_of_the_same_cuda_is_not_blamed_on_the_version(built_without: str, monkeypatch) -> None:
    monkeypatch.setattr(extension, "_cuda_error", "libcudart.so.13: cannot open shared object file")
    assert "do not fit torch" in extension.no_cuda_reason() and "instead" not in extension.cuda_remedy()


def test_info_names_kernels_of_another_cuda_that_loaded(built_without: str, monkeypatch, capsys) -> None:
    for version, said in (("13.1", False), ("12.8", True)):
        monkeypatch.setattr(extension, "_cuda_module", SimpleNamespace(architectures="8.0", cuda=version))
        assert cli.main(["info"]) == 0
        printed = capsys.readouterr().out
        assert (
            f"for 8.0, built by CUDA {version}" in printed
            and ("(torch is for CUDA 13.0: not tested" in printed) == said
        )
