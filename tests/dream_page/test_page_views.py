"""The other two views, and what all views share: one screen, names, focus."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from dream_page.page import (
    DESKTOP,
    PHONE,
    SIDEWAYS,
    STILL,
    Visit,
    decode,
    exported_models,
    frame,
    text,
    wait_for_picture,
    wait_until,
)
from tools.export_web import Recording


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


def test_a_note_hides_no_instrument_on_a_phone(visit: Callable[..., Visit]) -> None:
    page = visit(PHONE, touch=True).open(STILL)
    for width, height in [PHONE, (390, 844), (360, 640), SIDEWAYS]:
        page.set_viewport_size({"width": width, "height": height})
        page.click("#play")
        page.click("#play")
        wait_until(page, "document.getElementById('status').textContent == 'Paused.'")
        hidden = page.evaluate(
            """() => { const note = document.getElementById("status").getBoundingClientRect();
                return Array.from(document.querySelectorAll("button, input, .scale, .meters > div"))
                    .filter(e => e.checkVisibility())
                    .filter(e => { const box = e.getBoundingClientRect();
                        return box.left < note.right && note.left < box.right
                            && box.top < note.bottom && note.top < box.bottom; })
                    .map(e => e.id || e.className) }"""
        )
        assert not hidden, (width, height)
