"""Two tiers of tests: the short one, which runs by default, and `--full`, which is everything.

What is marked ``@pytest.mark.full("what it is")``, a test or one of its parameters, is deselected in the short tier;
the run's last lines say how many such tests there are of each kind. `--only-full` runs the marked ones alone: a short
run and this one are together a full run.

A run of all tests (no file named) goes over several processes where pytest-xdist is installed, a file at a time, since
files share what they build, and the longest first, so that no core is idle at the end; ``-n0`` is one process.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator
from typing import Any

import pytest

_MOST_PROCESSES = 8  # a file is done by one, and some take a minute
# The order matters where there are several processes; the names are checked by test_tiers.py.
_LONGEST = (
    "test_kernels.py", "test_glue.py", "test_export_compiled.py", "test_autograd.py", "test_upcat_autograd.py",
    "test_emulator.py",
)  # fmt: skip
_INTERACTIVE = ("usepdb", "trace", "collectonly", "stepwise", "lf", "keyword", "markexpr")

LEFT_OUT = pytest.StashKey[Counter]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("tiers")
    group.addoption("--full", action="store_true", help="run every test, those marked `full` too")
    group.addoption("--only-full", action="store_true", help="run only what a run without --full leaves out")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--full") and config.getoption("--only-full"):
        raise pytest.UsageError("--full, --only-full: expected one of them, got both")
    config.stash[LEFT_OUT] = Counter()


# Before xdist's own, which turns the options into processes.
@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    if not config.pluginmanager.hasplugin("xdist") or hasattr(config, "workerinput"):
        return
    asked = config.option.numprocesses is not None or any(config.getoption(name, None) for name in _INTERACTIVE)
    whole = config.args_source is not pytest.Config.ArgsSource.ARGS
    if whole and not asked and (processes := min(os.cpu_count() or 1, _MOST_PROCESSES)) > 1:
        config.option.numprocesses, config.option.dist = processes, "loadfile"
        config.option.loadscopereorder = False  # by xdist's measure a file is as long as it has tests


# After -k and -m: a test that they deselect is not counted as left out.
@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: _LONGEST.index(item.path.name) if item.path.name in _LONGEST else len(_LONGEST))
    if config.getoption("--full"):
        return
    groups = {item: marker.args[0] for item in items if (marker := item.get_closest_marker("full"))}
    if config.getoption("--only-full"):
        deselected = [item for item in items if item not in groups]
    else:
        deselected = list(groups)
        config.stash[LEFT_OUT] = Counter(groups.values())
    if deselected:
        config.hook.pytest_deselected(items=deselected)
        gone = set(deselected)
        items[:] = [item for item in items if item not in gone]


# With several processes the first one, which prints, collects nothing: each of the others tells it the same.
@pytest.hookimpl
def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = dict(session.config.stash[LEFT_OUT])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    told = getattr(node, "workeroutput", {}).get("left_out")
    if told is not None:
        node.config.stash[LEFT_OUT] = Counter(told)


# Around pytest's own summaries: these lines come last, above the totals.
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> Generator[None, None, None]:
    yield
    groups = config.stash[LEFT_OUT]
    if not groups:
        return
    listed = ", ".join(f"{name} ({count})" for name, count in sorted(groups.items()))
    terminalreporter.write_line(f"The short tier left out {groups.total()} tests: {listed}.")
    terminalreporter.write_line("All tests: python -m pytest --full")
