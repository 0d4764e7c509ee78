"""Fixtures that several files share, and the rule that every comparison with float64 follows."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before torch is imported: OpenMP's threads then sleep while they wait, and leave the cores to other processes.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Else torch.compile starts processes that import torch, for a handful of small kernels.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def pytest_addoption(pluginmanager: pytest.PytestPluginManager) -> None:
    pluginmanager.import_plugin("tiers")  # once, where the benchmarks' conftest.py asks for it too


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def build_folder(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Path:
    """Objects of emulated kernels: of this test run, or kept in the folder PCONV_EMULATION_BUILD.

    The processes of a run share it: each has a folder of its own inside the run's."""
    own = tmp_path_factory.getbasetemp()
    of_the_run = own.parent if hasattr(pytestconfig, "workerinput") else own
    return Path(os.environ.get("PCONV_EMULATION_BUILD") or of_the_run / "emulation")


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small network, as save_pretrained writes it."""
    from inpaint_support import small_network

    folder = tmp_path_factory.mktemp("weights")
    small_network(2).save_pretrained(folder)
    return folder


class Terminal(io.StringIO):
    """Takes the place of sys.stderr."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _full_fp32() -> Iterator[None]:
    """On a GPU fp32 means fp32. By default torch allows tf32, which ours then uses, but cuDNN not for tiny shapes."""
    if not torch.cuda.is_available():
        yield
        return
    # By the old name: torch.export reads it, and that fails once the new one says "ieee".
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = True


def assert_as_good_as_torch(
    ours: Tensor, torchs: Tensor, truth: Tensor, what: str = "", sums: Tensor | None = None
) -> None:
    """Our error against float64 is at most twice that of torch's own operators in the same precision.

    Where torch happens to be exact, one rounding of the largest value is allowed; in float64, where the truth
    itself is rounded, 1e-12 of it. With ``sums``, the sums of the absolute values of what is added up, two roundings of
    their largest, since the error of a hundred products depends on their order.
    """
    assert ours.shape == truth.shape, f"{what}: shape {tuple(ours.shape)}, expected {tuple(truth.shape)}"
    assert torch.isfinite(ours).all(), f"{what}: NaN or infinity"
    if truth.numel() == 0:
        return
    least = 1e-12 if ours.dtype == torch.float64 else torch.finfo(ours.dtype).eps
    least *= truth.abs().max().item() if sums is None else 2 * sums.max().item()
    error = (ours.double() - truth).abs().max().item()
    allowed = max(2 * (torchs.double() - truth).abs().max().item(), least)
    assert error <= allowed, f"{what}: error {error:.3g}, allowed {allowed:.3g}"
