"""A browser, a server and the page, for the tests of ``pconv serve``'s page (``pytest_plugins`` names this file)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser_support import Page, chromium
from serve_support import Client, serving


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def browser(downloads: Path) -> Iterator:
    with chromium(downloads) as started:
        yield started


@pytest.fixture(scope="module")
def server() -> Iterator[Client]:
    with serving("smooth", "photo", upload=1) as client:
        yield client


@pytest.fixture
def page(browser, server: Client, tmp_path: Path, downloads: Path) -> Page:
    for path in downloads.iterdir():
        path.unlink()
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    page = Page(browser, server.address, tmp_path, downloads)
    page.until(lambda: page["weights"].text, "the page has no weights")
    page.requested(), page.console()  # what was before
    return page
