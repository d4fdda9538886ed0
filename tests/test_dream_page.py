"""The dream's page, exported from a random agent, in a real Chromium; skipped where is none."""

import hashlib
import http.server
import itertools
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import act, foresee, lstm_step, random_model, sample
from scipy import stats

from models.controller import Controller
from models.dream import DreamState, dream_return
from models.rnn import MDNRNN, LSTMState, MixtureNoise, mixture_noise
from models.vae import ConvVAE
from tools import export_web as export_dream
from tools.export_web import Bundle, Recording, Settings
from utils.errors import UserError
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
    export_dream.main(Settings(run_dir=run_dir, output_dir=output, steps=STEPS))


@pytest.fixture(scope="module")
def recordings() -> list[Recording]:
    """What the script recorded; all exports share it, since drives take most of the time."""
    return []


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, recordings: list[Recording]) -> Iterator[Path]:
    """A folder to be served, with an exported page somewhere below it."""
    folder = tmp_path_factory.mktemp("site")
    save_agent(folder / "run", 7)
    record = export_dream.record

    def record_once(*args: Any) -> list[Recording]:
        recordings[:] = recordings or record(*args)
        return recordings

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_dream, "record", record_once)
        export(folder / "run", folder / "root" / SUBPATH)
        yield folder


@pytest.fixture(scope="module")
def output(site: Path) -> Path:
    return site / "root" / SUBPATH


@pytest.fixture(scope="module")
def manifest(output: Path) -> dict[str, Any]:
    return json.loads((output / "dream.json").read_text())


@pytest.fixture(scope="module")
def tensors(output: Path, manifest: dict[str, Any]) -> Callable[[str], np.ndarray]:
    halves = np.fromfile(output / manifest["weights"], "<f2")

    def read(name: str) -> np.ndarray:
        entry = manifest["tensors"][name]
        size = int(np.prod(entry["shape"]))
        part = halves[entry["offset"] : entry["offset"] + size]
        return part.reshape(entry["shape"]).astype(np.float32)

    return read


# The export


def test_the_weights_are_the_models_rounded_to_float16(
    site: Path, tensors: Callable[[str], np.ndarray]
) -> None:
    agent = Agent.load(AgentFiles.of_run(site / "run"))
    leaves = {
        "vae.decoder.2.weight": agent.vae.decoder[2].weight,
        "vae.from_latent.bias": agent.vae.from_latent.bias,
        "rnn.cell.weight_hh": agent.rnn.cell.weight_hh,
        "rnn.heads.weight": agent.rnn.heads.weight,
        "controller.weight": agent.controller.weight,
    }
    for name, leaf in leaves.items():
        np.testing.assert_allclose(tensors(name), leaf, rtol=2**-11, atol=2**-25, err_msg=name)


def test_exporting_again_gives_the_same_bytes_and_removes_only_what_it_replaced(
    tmp_path: Path, site: Path, output: Path
) -> None:
    shutil.copytree(output, tmp_path / "page")
    before = {p: p.read_bytes() for p in (tmp_path / "page").rglob("*") if p.is_file()}
    old = tmp_path / "page/data/weights-0123456789ab.bin"
    mine = tmp_path / "page/data/notes.txt"
    old.write_text("of an earlier export")
    mine.write_text("somebody's own")
    export(site / "run", tmp_path / "page")
    assert not old.exists()
    assert mine.read_text() == "somebody's own"
    assert {p: p.read_bytes() for p in before} == before


def test_an_export_that_fails_halfway_leaves_the_earlier_page_whole(
    tmp_path: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(output, tmp_path / "page")
    save_agent(tmp_path / "other", 70)

    def fail(path: Path, value: Any) -> None:
        raise UserError(f"cannot write {path}")

    monkeypatch.setattr(export_dream, "write_json", fail)
    with pytest.raises(UserError):
        export(tmp_path / "other", tmp_path / "page")
    manifest = json.loads((tmp_path / "page/dream.json").read_text())
    for name, size in manifest["bytes"].items():
        data = (tmp_path / "page" / name).read_bytes()
        assert len(data) == size and hashlib.sha256(data).hexdigest()[:12] in name


def test_what_cannot_be_exported_is_refused(tmp_path: Path, site: Path) -> None:
    with pytest.raises(UserError, match="run run_vae_training"):
        export(tmp_path / "nothing", tmp_path / "page")
    shutil.copytree(site / "run", tmp_path / "mixed")
    save_agent(tmp_path / "other", 70)
    shutil.copy(tmp_path / "other/vae.eqx", tmp_path / "mixed/vae.eqx")
    with pytest.raises(UserError, match="another vae"):
        export(tmp_path / "mixed", tmp_path / "page")
    (tmp_path / "home").mkdir()
    (tmp_path / "home/index.html").write_text("my own page")
    with pytest.raises(UserError, match="no dream's"):
        export(site / "run", tmp_path / "home")
    with pytest.raises(UserError, match="float16"):
        Bundle(tmp_path).add("rnn.heads.bias", np.array([1.0, 1e6]))


# The page


class Served(http.server.SimpleHTTPRequestHandler):
    """The static server, without its log."""

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    handler = partial(Served, directory=str(site / "root"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/{SUBPATH}/"
        server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium on the PATH (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


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


@pytest.fixture
def visit(browser: Any, address: str) -> Iterator[Callable[..., Visit]]:
    visits: list[Visit] = []

    def begin(size: tuple[int, int] = DESKTOP, **options: Any) -> Visit:
        visits.append(Visit(browser, address, size, **options))
        return visits[-1]

    yield begin
    for one in visits:
        one.close()


# A start stands still, since its address names it: what moves then was moved by the test.
STILL = "#view=drive&start=4&seed=11&temperature=1"


VISITS = itertools.count()  # the same address twice would be no change


@pytest.fixture(scope="module")
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


RUN_MODEL = """async ([start, noise, temperature, plain]) => {
    const url = name => new URL("js/" + name, document.baseURI).href;
    const { Tensors } = await import(url("halves.js"));
    const { Model } = await import(url("model.js"));
    const { Workspace, plainKernels } = await import(url("product.js"));
    const manifest = await (await fetch("dream.json")).json();
    const buffer = await (await fetch(manifest.weights)).arrayBuffer();
    const tensors = new Tensors(manifest.tensors, buffer);
    const workspace = new Workspace();
    const vectors = /native code/.test(workspace.kernels.single);
    if (plain) workspace.kernels = plainKernels(workspace.memory);
    const model = new Model(manifest, tensors, workspace);
    const row = name => tensors.rows("starts." + name)[start];
    let state = { z: row("z"), hidden: row("hidden"), cell: row("cell") };
    const steps = [];
    const times = [];
    for (let t = 0; t < noise.choice.length; t++) {
        const before = performance.now();
        const action = model.controller.act(state);
        const at = { choice: noise.choice[t], normal: noise.normal[t] };
        const { reward, end, state: next } = model.rnn.imagine(state, action, at, temperature);
        state = next;
        const image = model.decoder.decode(state.z);
        times.push(performance.now() - before);
        const numbers = { ...state, action, image: t % 10 == 4 ? image : [] };
        for (const name in numbers) numbers[name] = Array.from(numbers[name]);
        steps.push({ reward, end, ...numbers });
    }
    times.sort((a, b) => a - b);
    return { steps, vectors, milliseconds: times[Math.floor(times.length / 2)] };
}"""


@eqx.filter_jit
def decode(vae: ConvVAE, z: jax.Array) -> jax.Array:
    return vae.decode(z)


def exported_models(site: Path) -> tuple[ConvVAE, MDNRNN, Controller]:
    """The models with the weights that the page has: rounded to float16."""
    agent = Agent.load(AgentFiles.of_run(site / "run"))
    models = (agent.vae, agent.rnn, agent.controller)
    return jax.tree.map(lambda x: np.asarray(x, np.float16).astype(np.float32), models)


@pytest.mark.parametrize(
    ("temperature", "steps", "plain"), [(1.0, 50, False), (2.5, 5, False), (0.3, 5, True)]
)
def test_the_page_computes_what_jax_and_a_reference_compute(
    site: Path,
    still: Any,
    tensors: Callable[[str], np.ndarray],
    temperature: float,
    steps: int,
    plain: bool,
) -> None:
    vae, rnn, controller = exported_models(site)
    start = 2
    noise = mixture_noise(jax.random.key(3), (steps, 32))
    given = {"choice": noise.choice.tolist(), "normal": noise.normal.tolist()}
    ran = still.evaluate(RUN_MODEL, [start, given, temperature, plain])
    assert ran["vectors"]  # else both runs would test the same kernel
    z, hidden, cell = (
        tensors(f"starts.{name}")[start].astype(np.float64) for name in ("z", "hidden", "cell")
    )
    for t, step in enumerate(ran["steps"]):
        action = act(controller, z, hidden)
        hidden, cell = lstm_step(rnn, hidden, cell, z, action)
        foreseen = foresee(rnn, hidden, z)
        z = sample(foreseen, np.asarray(noise.choice[t]), np.asarray(noise.normal[t]), temperature)
        for name, value in {"action": action, "z": z, "hidden": hidden, "cell": cell}.items():
            np.testing.assert_allclose(step[name], value, atol=2e-4, err_msg=f"{name} at step {t}")
        np.testing.assert_allclose(step["reward"], foreseen.reward, atol=2e-4)
        np.testing.assert_allclose(step["end"], foreseen.end, atol=2e-5)
        if step["image"]:
            shown = np.array(step["image"]).reshape(64, 64, 4)[..., :3]
            drawn = 255 * np.asarray(decode(vae, jnp.asarray(z, jnp.float32)))
            assert np.abs(shown - drawn).max() < 0.55  # rounded to whole levels
            assert shown.std() > 10
    if not plain:
        assert ran["milliseconds"] < 1000 / 30, "slower than 30 frames a second"


def test_the_dream_counts_its_return_as_jax_does(
    site: Path, still: Any, tensors: Callable[[str], np.ndarray]
) -> None:
    _, rnn, controller = exported_models(site)
    page = still
    steps = 30
    noise = page.evaluate(
        """async steps => {
            const url = new URL("js/noise.js", document.baseURI).href;
            const { mixtureNoise } = await import(url);
            const rows = Array.from({ length: steps }, (_, t) => mixtureNoise(11, t, 32));
            return { choice: rows.map(r => Array.from(r.choice)),
                     normal: rows.map(r => Array.from(r.normal)) };
        }""",
        steps,
    )
    for _ in range(steps):
        page.keyboard.press(".")
    wait_for_step(page, steps)
    z, hidden, cell = (
        jnp.asarray(tensors(f"starts.{name}")[4]) for name in ("z", "hidden", "cell")
    )
    drawn = MixtureNoise(jnp.asarray(noise["choice"]), jnp.asarray(noise["normal"]))
    start = DreamState(z, LSTMState(hidden, cell))
    expected = float(jax.jit(dream_return)(rnn, controller, start, drawn, 1.0))
    assert float(text(page, "total").replace("−", "-")) == pytest.approx(expected, abs=0.06)


def test_noise_is_uniform_and_normal_and_never_twice_the_same(still: Any) -> None:
    rows = still.evaluate(
        """async () => {
            const { mixtureNoise } = await import(new URL("js/noise.js", document.baseURI).href);
            const rows = [];
            for (let seed = 0; seed < 10; seed++)
                for (let step = 0; step < 50; step++) {
                    const { choice, normal } = mixtureNoise(seed, step, 32);
                    rows.push([Array.from(choice), Array.from(normal)]);
                }
            return rows;
        }"""
    )
    choice, normal = np.array(rows).transpose(1, 0, 2)
    assert len(np.unique(choice)) > 0.99 * choice.size
    assert stats.kstest(choice.ravel(), "uniform").pvalue > 1e-3
    assert stats.kstest(normal.ravel(), "norm").pvalue > 1e-3
    neighbours = np.corrcoef(normal[:-1].ravel(), normal[1:].ravel())[0, 1]
    assert abs(neighbours) < 5 / np.sqrt(normal.size)


def test_the_agent_drives_until_a_key_takes_the_wheel_and_g_gives_it_back(
    visit: Callable[..., Visit],
) -> None:
    page = visit().open()
    wait_for_step(page, 10)  # it moves by itself
    assert text(page, "who") == "The agent drives"
    before = frame(page)
    page.keyboard.down("ArrowLeft")
    page.keyboard.down("w")
    wait_until(page, "document.getElementById('steer').textContent == '0.80 ←'")
    wait_until(page, "document.getElementById('gas').textContent == '0.80'")
    page.keyboard.up("w")
    page.keyboard.up("ArrowLeft")
    assert text(page, "who") == "You drive"
    assert np.abs(frame(page) - before).max() > 20
    wait_until(page, "document.getElementById('gas').textContent == '0.00'")
    page.keyboard.press("g")
    assert text(page, "who") == "The agent drives"


def test_the_page_keeps_up(still: Any, record_property: Callable[[str, object], None]) -> None:
    """The best of some seconds: other work on this machine is none of the page's business."""
    page = still
    page.keyboard.press("Space")
    rates = []
    while len(rates) < 8 and max(rates, default=0) < 45:
        page.wait_for_timeout(1100)
        rates.append(int(text(page, "rate").split()[1]))
    record_property("steps_a_second", rates)
    assert max(rates) >= 15


def test_a_key_let_go_of_in_another_view_holds_nothing(still: Any) -> None:
    page = still
    page.keyboard.down("a")
    wait_until(page, "document.getElementById('steer').textContent == '0.80 ←'")
    page.click("#tab-numbers")
    page.keyboard.up("a")
    page.click("#tab-drive")
    wait_until(page, "document.getElementById('steer').textContent == '0.00'")
    page.keyboard.down("r")
    wait_until(page, "document.getElementById('time').value < 5")
    page.click("#tab-numbers")
    page.keyboard.up("r")
    page.click("#tab-drive")
    # The click's button has the focus for a moment more, and would take the key for another click.
    wait_until(page, "document.activeElement.id == 'stage'")
    page.keyboard.press("Space")
    wait_for_step(page, 6)


def test_keys_change_what_is_dreamed(still: Any) -> None:
    """From the same moment with the same noise: only the steering differs."""
    page = still
    ends = []
    for key in ("a", "d"):
        page.keyboard.down(key)  # which lets time run, too
        wait_for_step(page, 25)
        page.keyboard.press("Space")
        page.keyboard.up(key)
        page.fill("#time", "25")
        page.wait_for_timeout(200)
        ends.append(frame(page))
        page.click("#first")
        wait_until(page, "document.getElementById('time').value == 0")
        page.keyboard.press("g")
    assert np.abs(ends[0] - ends[1]).mean() > 1


def test_time_stands_still_steps_and_goes_back(still: Any) -> None:
    page = still
    start = frame(page)
    page.wait_for_timeout(200)
    assert text(page, "clock") == "0.0 s" and (frame(page) == start).all()
    for _ in range(10):
        page.keyboard.press(".")
    wait_for_step(page, 10)
    later = frame(page)
    assert (later != start).any()
    page.click("#first")
    wait_for_picture(page, lambda shown: (shown == start).all())
    page.keyboard.press("Space")  # the same seed dreams the same again
    wait_for_step(page, 15)
    page.keyboard.press("Space")
    page.wait_for_timeout(100)
    bar = page.evaluate("document.getElementById('steer-bar').style.getPropertyValue('--value')")
    assert text(page, "steer").split()[0] == f"{abs(float(bar)):.2f}"  # of the very same moment
    page.fill("#time", "10")
    wait_for_picture(page, lambda shown: (shown == later).all())
    page.keyboard.press("n")  # and another future another
    wait_for_step(page, 20)
    page.keyboard.down("r")
    wait_until(page, "document.getElementById('time').value < 12")
    page.keyboard.up("r")
    assert page.get_attribute("#play", "aria-label") == "Play"


def test_a_shared_address_shows_the_same_moment_and_the_same_future(
    visit: Callable[..., Visit],
) -> None:
    one = visit()
    page = one.open(STILL)
    page.fill("#temperature", "0.5")
    for _ in range(7):
        page.keyboard.press(".")
    wait_for_step(page, 7)
    page.click("#share")
    shared = page.url.removeprefix(one.address)
    assert "step=7" in shared and "temperature=0.5" in shared and len(page.url) < 2000
    here = frame(page)
    total = text(page, "total")
    page.keyboard.press(".")
    wait_for_step(page, 8)
    future = frame(page)
    again = visit().open(shared)
    # The state went through float16.
    wait_for_picture(again, lambda shown: np.abs(shown - here).mean() < 0.5)
    totals = [float(shown.replace("−", "-")) for shown in (text(again, "total"), total)]
    assert abs(totals[0] - totals[1]) < 0.15 and text(again, "clock") == "0.1 s"
    again.keyboard.press(".")
    wait_for_step(again, 1)
    assert np.abs(frame(again) - future).mean() < 0.5 < np.abs(future - here).mean()


def test_a_broken_address_still_shows_a_dream(go: Callable[[str], Any]) -> None:
    for canvas, fragment in [
        ("dream-frame", "#view=drive&start=99&seed=-4&temperature=hot&step=x&state=!!&agent=none"),
        ("dream-frame", "#view=%3Cscript%3E&state=" + "A" * 1451),
        ("number-frame", "#view=numbers&start=x&number=-3&z=AAAA"),
        ("imagined-frame", "#view=compare&episode=7&from=1e9&seed=&temperature="),
    ]:
        wait_for_picture(go(fragment), lambda picture: picture.std() > 0, canvas)


def test_touch_and_gamepad_drive(visit: Callable[..., Visit]) -> None:
    phone = visit(PHONE, touch=True)
    page = phone.open(STILL)
    page.dispatch_event("[data-pad=gas]", "pointerdown", {"pointerId": 1, "isPrimary": True})
    wait_until(page, "document.getElementById('gas').textContent == '0.80'")
    assert text(page, "who") == "You drive"
    page.dispatch_event("[data-pad=gas]", "pointerup", {"pointerId": 1})
    wait_until(page, "document.getElementById('gas').textContent == '0.00'")
    phone.complaints = [c for c in phone.complaints if "setPointerCapture" not in c]

    desk = visit()
    desk.context.add_init_script(
        """const buttons = Array.from({ length: 16 }, () => ({ value: 0 }));
        buttons[7].value = 0.6;
        navigator.getGamepads = () => window.plugged ? [null, { axes: [-0.5, 0], buttons }] : [];"""
    )
    page = desk.open()
    wait_for_step(page, 10)
    assert text(page, "who") == "The agent drives"
    page.evaluate("window.plugged = true")
    wait_until(page, "document.getElementById('steer').textContent == '0.50 ←'")
    wait_until(page, "document.getElementById('gas').textContent == '0.60'")
    assert text(page, "who") == "You drive"


def test_the_numbers_draw_the_picture(
    site: Path, go: Callable[[str], Any], tensors: Callable[[str], np.ndarray]
) -> None:
    vae, _, _ = exported_models(site)

    def picture(z: np.ndarray) -> np.ndarray:
        return np.rint(255 * np.asarray(decode(vae, jnp.asarray(z))))

    def wait_for(expected: np.ndarray) -> None:
        wait_for_picture(page, lambda shown: np.abs(shown - expected).max() <= 1, "number-frame")

    page = go("#view=numbers&start=3&number=5")
    z = tensors("starts.z")
    assert page.locator("#sliders input").count() == 32
    wait_for(picture(z[3]))
    page.locator("#sliders input").nth(4).fill("2")
    changed = z[3].copy()
    changed[4] = 2
    wait_for(picture(changed))
    assert page.locator("#filmstrip canvas").count() == 9
    page.click("#reset")
    wait_for(picture(z[3]))
    page.locator("#mix-to button").nth(6).click()
    page.fill("#mix", "25")
    wait_for(picture(z[3] + np.float32(0.25) * (z[6] - z[3])))
    page.click("#mix-play")
    wait_until(page, "document.getElementById('mix').value != 25")
    page.fill("#mix", "100")  # a hand on the slider ends the morph
    wait_for(picture(z[6]))
    page.click("#random")
    wait_for_picture(page, lambda shown: np.abs(shown - picture(z[6])).max() > 9, "number-frame")


def test_reality_is_shown_as_it_was_recorded_beside_the_dream_of_it(
    site: Path,
    recordings: list[Recording],
    go: Callable[[str], Any],
    tensors: Callable[[str], np.ndarray],
) -> None:
    vae, _, _ = exported_models(site)
    begin, row, episode = 60, 65, 1
    page = go(f"#view=compare&episode={episode}&from={begin}&seed=5&temperature=1")
    wait_until(page, "document.getElementById('verdict').textContent.includes('0.0 s')")
    imagined = frame(page, "imagined-frame")
    for _ in range(row - begin):
        page.keyboard.press(".")
    driven = recordings[episode].episode
    wait_for_picture(page, lambda shown: (shown == driven.frames[row]).all(), "real-frame")
    seen = np.asarray(decode(vae, jnp.asarray(tensors(f"episodes.{episode}.mu")[row])))
    assert np.abs(frame(page, "seen-frame") - 255 * seen).max() < 1
    assert (frame(page, "imagined-frame") != imagined).any()
    real = float(driven.rewards[begin:row].sum())
    assert f"real {real:+.1f}".replace("-", "−") in text(page, "verdict")
    page.click("#share")
    imagined, verdict = frame(page, "imagined-frame"), text(page, "verdict")
    page.click("#again")
    wait_for_picture(page, lambda shown: (shown != imagined).any(), "imagined-frame")
    page = go(page.url[page.url.index("#") :])
    wait_for_picture(page, lambda shown: (shown == imagined).all(), "imagined-frame")
    wait_until(page, f"document.getElementById('verdict').textContent == '{verdict}'")
    page.click("#compare-play")
    wait_until(page, "document.getElementById('status').textContent.includes('ends here')")


def test_an_episode_that_is_slow_to_load_plays_once_it_is_there(
    visit: Callable[..., Visit], manifest: dict[str, Any]
) -> None:
    held: list[Any] = []
    one = visit()
    one.page.route(f"**/{manifest['episodes'][0]['sheet']}", lambda route: held.append(route))
    page = one.open(STILL)
    page.click("#tab-compare")
    page.click("#compare-play")
    page.click("#compare-step")
    page.click("#compare-play")
    page.wait_for_timeout(200)
    held[0].continue_()
    wait_until(page, "/after 0.[2-9] s/.test(document.getElementById('verdict').textContent)")


def test_every_view_is_one_screen_and_all_controls_have_names(
    visit: Callable[..., Visit],
) -> None:
    page = visit(PHONE, touch=True).open(STILL)
    root = "document.documentElement."
    for width, height in [PHONE, SIDEWAYS, (360, 640), (1180, 820), DESKTOP, (1920, 1080)]:
        page.set_viewport_size({"width": width, "height": height})
        for view in ("drive", "numbers", "compare"):
            page.click(f"#tab-{view}")
            page.wait_for_timeout(50)
            assert page.evaluate(f"{root}scrollWidth - innerWidth") <= 0, (view, width)
            assert page.evaluate(f"{root}scrollHeight - innerHeight") <= 0, (view, height)
            nameless = page.evaluate(
                """() => Array.from(document.querySelectorAll("button, input, select"))
                    .filter(e => e.checkVisibility())
                    .filter(e => !(e.getAttribute("aria-label") || e.innerText || e.labels?.length))
                    .map(e => e.outerHTML)"""
            )
            assert not nameless


def test_the_keyboard_reaches_everything_and_shows_where_it_is(
    still: Any,
) -> None:
    page = still
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id"))
        outline = page.evaluate(
            """() => { const e = document.activeElement;
                if (e == document.body) return "of the browser's own window";
                return getComputedStyle(e.id == "stage" ? e.firstElementChild : e).outlineStyle }"""
        )
        assert outline != "none"
    assert {"tab-drive", "share", "about-open", "stage", "play", "time", "temperature"} <= reached
    page.focus("#tab-drive")
    page.keyboard.press("ArrowRight")  # inside the tabs arrows go from tab to tab
    assert page.is_visible("#numbers") and not page.is_visible("#drive")
    page.click("#about-open")
    page.keyboard.press("Escape")
    assert not page.is_visible("#about")
