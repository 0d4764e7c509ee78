"""Options of the benchmarks, and one thread unless told otherwise."""

from __future__ import annotations

import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rounds", type=int, default=30, help="how often every rival runs")
    parser.addoption("--threads", type=int, default=1, help="threads of torch")


@pytest.fixture
def rounds(request: pytest.FixtureRequest) -> int:
    return request.config.getoption("--rounds")


@pytest.fixture(autouse=True)
def _threads(request: pytest.FixtureRequest):
    before = torch.get_num_threads()
    torch.set_num_threads(request.config.getoption("--threads"))
    yield
    torch.set_num_threads(before)


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict) -> None:
    """A result says what machine it is, not whose."""
    machine_info.pop("node", None)
