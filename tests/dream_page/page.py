"""What the tests of the page share: exports, visits, and how to wait for what is shown."""

import http.server
import itertools
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
from oracles import random_model

from models.controller import Controller
from models.rnn import MDNRNN
from models.vae import ConvVAE
from tools import export_web
from tools.export_web import Settings
from utils.io.checkpoints import Header, save
from utils.io.files import sha256_of
from utils.io.run_folder import AgentFiles
from utils.sim.agent import Agent

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
SUBPATH = "some/where/dream"  # hosted below the server's root, as GitHub Pages does
STEPS = 100
DESKTOP, PHONE, SIDEWAYS = (1280, 800), (390, 664), (750, 342)

# What a canvas shows, RGBA. Read from a copy: Chromium warns of canvases that are read often.
PIXELS = """id => {
    const copy = new OffscreenCanvas(64, 64).getContext("2d", { willReadFrequently: true });
    copy.drawImage(document.getElementById(id), 0, 0);
    return Array.from(copy.getImageData(0, 0, 64, 64).data);
}"""


def save_agent(folder: Path, seed: int) -> AgentFiles:
    """A random agent of the usual sizes, its checkpoints naming each other as trained ones do."""
    files = AgentFiles.of_run(folder)
    vae = random_model(lambda: ConvVAE(32, key=jax.random.key(0)), seed, scale=3.0)
    rnn = random_model(lambda: MDNRNN(32, 256, 5, key=jax.random.key(0)), seed + 1)
    controller = random_model(lambda: Controller(288), seed + 2)
    save(files.vae, Header("vae", {"latent": 32}, {}, {}, {}), vae)
    inputs = {"vae": sha256_of(files.vae)}
    sizes = {"latent": 32, "hidden": 256, "components": 5}
    save(files.rnn, Header("rnn", sizes, {}, inputs, {}), rnn)
    inputs = inputs | {"rnn": sha256_of(files.rnn)}
    save(files.controller, Header("controller", {"features": 288}, {}, inputs, {}), controller)
    return files


def export(run_dir: Path, output: Path) -> None:
    """The whole script."""
    export_web.main(Settings(run_dir=run_dir, output_dir=output, steps=STEPS))


class Served(http.server.SimpleHTTPRequestHandler):
    """The static server, without its log."""

    def log_message(self, *args: Any) -> None:
        pass


class Visit:
    """A page in a window of its own; it must neither complain nor ask anyone else."""

    def __init__(self, browser: Any, address: str, size: tuple[int, int], touch: bool = False):
        width, height = size
        self.context = browser.new_context(
            viewport={"width": width, "height": height}, has_touch=touch, is_mobile=touch
        )
        self.page = self.context.new_page()
        self.address = address
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda m: self.complaints.append(m.text))
        self.page.on("pageerror", lambda e: self.complaints.append(str(e)))
        self.page.on("requestfailed", lambda r: self.complaints.append(r.url))
        self.context.on("request", lambda r: self.requests.append(r.url))

    def open(self, fragment: str = "") -> Any:
        """Load the page anew; returns it once the dream is there."""
        self.page.goto("about:blank")
        self.page.goto(self.address + fragment)
        self.page.wait_for_selector("main:not([hidden])")
        return self.page

    def close(self) -> None:
        self.context.close()
        self.check()

    def check(self) -> None:
        assert not self.complaints
        assert all(url.startswith((self.address, "about:")) for url in self.requests)


# A start stands still, since its address names it: what moves then was moved by the test.
STILL = "#view=drive&start=4&seed=11&temperature=1"


VISITS = itertools.count()  # the same address twice would be no change


def frame(page: Any, canvas: str = "dream-frame") -> np.ndarray:
    return np.array(page.evaluate(PIXELS, canvas)).reshape(64, 64, 4)[..., :3]


def wait_for_picture(
    page: Any, condition: Callable[[np.ndarray], bool], canvas: str = "dream-frame"
) -> None:
    end = time.monotonic() + 30
    while not condition(frame(page, canvas)):
        assert time.monotonic() < end, f"{canvas} never showed what it should"
        page.wait_for_timeout(20)


def text(page: Any, name: str) -> str:
    return page.text_content(f"#{name}")


def wait_until(page: Any, condition: str) -> None:
    """Not Playwright's own: it evaluates texts inside the page, which the page's policy forbids."""
    end = time.monotonic() + 30
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        page.wait_for_timeout(20)


def wait_for_step(page: Any, step: int) -> None:
    """Until the dream has gone on that far, and is drawn."""
    wait_until(page, f"document.getElementById('time').value >= {step}")


@eqx.filter_jit
def decode(vae: ConvVAE, z: jax.Array) -> jax.Array:
    return vae.decode(z)


def exported_models(site: Path) -> tuple[ConvVAE, MDNRNN, Controller]:
    """The models with the weights that the page has: rounded to float16."""
    agent = Agent.load(AgentFiles.of_run(site / "run"))
    models = (agent.vae, agent.rnn, agent.controller)
    return jax.tree.map(lambda x: np.asarray(x, np.float16).astype(np.float32), models)
