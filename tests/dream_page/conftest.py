"""An exported page, served to a real Chromium; tests that need one are skipped without it."""

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dream_page.page import (
    CHROMIUM,
    DESKTOP,
    FLAGS,
    STILL,
    SUBPATH,
    VISITS,
    Served,
    Visit,
    export,
    save_agent,
    wait_until,
)
from tools import export_web
from tools.export_web import Recording


@pytest.fixture(scope="session")
def recordings() -> list[Recording]:
    """What the script recorded; all exports share it, since drives take most of the time."""
    return []


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory, recordings: list[Recording]) -> Iterator[Path]:
    """A folder to be served, with an exported page somewhere below it."""
    folder = tmp_path_factory.mktemp("site")
    save_agent(folder / "run", 7)
    record = export_web.record

    def record_once(*args: Any) -> list[Recording]:
        recordings[:] = recordings or record(*args)
        return recordings

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_web, "record", record_once)
        export(folder / "run", folder / "root" / SUBPATH)
        yield folder


@pytest.fixture(scope="session")
def output(site: Path) -> Path:
    return site / "root" / SUBPATH


@pytest.fixture(scope="session")
def manifest(output: Path) -> dict[str, Any]:
    return json.loads((output / "dream.json").read_text())


@pytest.fixture(scope="session")
def tensors(output: Path, manifest: dict[str, Any]) -> Callable[[str], np.ndarray]:
    halves = np.fromfile(output / manifest["weights"], "<f2")

    def read(name: str) -> np.ndarray:
        entry = manifest["tensors"][name]
        size = int(np.prod(entry["shape"]))
        part = halves[entry["offset"] : entry["offset"] + size]
        return part.reshape(entry["shape"]).astype(np.float32)

    return read


@pytest.fixture(scope="session")
def address(site: Path) -> Iterator[str]:
    handler = partial(Served, directory=str(site / "root"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/{SUBPATH}/"
        server.shutdown()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium on the PATH (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Any, address: str) -> Iterator[Callable[..., Visit]]:
    visits: list[Visit] = []

    def begin(size: tuple[int, int] = DESKTOP, **options: Any) -> Visit:
        visits.append(Visit(browser, address, size, **options))
        return visits[-1]

    yield begin
    for one in visits:
        one.close()


@pytest.fixture(scope="session")
def first_visit(browser: Any, address: str) -> Iterator[Visit]:
    one = Visit(browser, address, DESKTOP)
    one.open(STILL)
    yield one
    one.close()


@pytest.fixture
def go(first_visit: Visit) -> Callable[[str], Any]:
    """Takes the page that most tests share to another address; only what is behind # changes."""

    def to(fragment: str) -> Any:
        page = first_visit.page
        page.goto(f"{first_visit.address}{fragment}&visit={next(VISITS)}")
        page.wait_for_timeout(50)
        first_visit.check()
        return page

    return to


@pytest.fixture
def still(go: Callable[[str], Any]) -> Any:
    """The shared page, at a start that nobody has driven from yet."""
    page = go(STILL)
    wait_until(page, "document.getElementById('time').max == 0")
    return page
