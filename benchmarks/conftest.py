"""Options of the benchmarks, and one thread unless told otherwise."""

from __future__ import annotations

import pytest
import torch
from cases import paper_layers
from cases_upcat import paper_stages

from benchmarks import measure
from benchmarks.settings import Settings


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    pluginmanager.import_plugin("tiers")  # --full, as for the tests
    add = parser.addoption
    add("--rounds", type=int, default=30, help="how often every rival runs")
    add("--threads", type=int, default=1, help="threads of torch")
    add("--device", default="cpu", choices=["cpu", "cuda"])
    add("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    add("--size", type=int, default=256, help="side of the network's pictures; layers have the sizes that follow")
    add("--batch", type=int, default=2)
    add("--holes", type=float, default=0.25, help="share of the pixels")
    add("--compiled", action="store_true", help="rivals under torch.compile too")


def settings_of(config: pytest.Config) -> Settings:
    get = config.getoption
    return Settings(
        get("--device"), getattr(torch, get("--dtype")), get("--size"), get("--batch"), get("--holes"), get("--rounds"),
        get("--compiled"),
    )  # fmt: skip


@pytest.fixture
def settings(request: pytest.FixtureRequest) -> Settings:
    return settings_of(request.config)


@pytest.fixture(scope="session")
def ceilings(request: pytest.FixtureRequest) -> dict[str, float]:
    torch.set_num_threads(request.config.getoption("--threads"))
    chosen = settings_of(request.config)
    return measure.ceilings(chosen.device, chosen.dtype)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The network's layers and stages at the size and batch that were asked for."""
    chosen = settings_of(metafunc.config)
    if "layer" in metafunc.fixturenames:
        layers = paper_layers(chosen.size, chosen.batch)[: chosen.levels]
        metafunc.parametrize("layer", layers, ids=lambda case: case.name)
    if "stage" in metafunc.fixturenames:
        stages = paper_stages(chosen.size, chosen.batch, chosen.levels)
        metafunc.parametrize("stage", stages, ids=lambda stage: stage.name)


@pytest.fixture(autouse=True)
def _threads(request: pytest.FixtureRequest):
    before = torch.get_num_threads()
    torch.set_num_threads(request.config.getoption("--threads"))
    yield
    torch.set_num_threads(before)


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict) -> None:
    """Leaves the host's name out of the result."""
    machine_info.pop("node", None)
