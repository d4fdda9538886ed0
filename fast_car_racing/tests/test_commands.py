"""The commands that compare and time the environments."""

import sys
import time
from collections import Counter

import numpy as np
import pytest

from fast_car_racing import benchmark, compare, downscale, step_profile
from fast_car_racing.env import FastCarRacing
from fast_car_racing.renderer import Renderer


def test_compare_prints_what_it_compared(monkeypatch, capsys):
    monkeypatch.setattr(compare, "DRIVERS", {"throttle": compare.DRIVERS["throttle"]})
    monkeypatch.setattr(sys, "argv", ["compare", "--tracks", "1", "--frames", "1"])
    steps = []
    original = compare.compare_track
    monkeypatch.setattr(
        compare,
        "compare_track",
        lambda seed, driver, n, seen: steps.append(n) or original(seed, driver, 20, seen),
    )
    assert compare.main() == 0 and steps == [1000]
    assert "20 frames, 0 differences" in capsys.readouterr().out


def change_frame(monkeypatch):
    draw = Renderer.draw

    def changed(self, env):
        frame = draw(self, env)
        frame[50, 50, 0] ^= env.t > 0.11  # from the fifth step on
        return frame

    monkeypatch.setattr(Renderer, "draw", changed)


def change_reward(monkeypatch):
    step = FastCarRacing.step

    def changed(self, action):
        frame, reward, *rest = step(self, action)
        return frame, np.nextafter(reward, 1000), *rest

    monkeypatch.setattr(FastCarRacing, "step", changed)


@pytest.mark.parametrize(("change", "differences"), [(change_frame, 8), (change_reward, 12)])
def test_compare_finds_the_smallest_difference(change, differences, monkeypatch):
    FastCarRacing()  # the start-up check, before the change
    change(monkeypatch)
    assert len(compare.compare_track(1, "fast", 12, Counter())) == differences


def test_benchmark_measures_every_row():
    rates = benchmark.measure(1, 1, time.process_time)
    assert set(benchmark.LABELS) - set(rates) <= {"envpool"}
    assert rates["fast_skip_8"] > rates["fast"] > rates["gymnasium"] > 0
    assert rates["fast_film"] > rates["gymnasium_film"]
    lines = benchmark.table(rates).splitlines()
    assert len(lines) == 1 + len(rates) and lines[1].split()[:1] == ["Gymnasium"]


def test_profile_names_the_processor_and_every_part(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmark", "--profile", "--tracks", "1", "--turns", "1"])
    kernel = downscale.downscale
    benchmark.main()
    title, _, *rows = capsys.readouterr().out.splitlines()
    assert title.endswith(step_profile.processor())
    times = {row[:52].strip(): float(row[52:58]) for row in rows}
    assert list(times) == [*step_profile.PARTS, step_profile.WHOLE]
    assert all(time > 0 for part, time in times.items() if part != step_profile.LISTENER)
    whole = times.pop(step_profile.WHOLE)
    assert max(times.values()) < whole < 2 * sum(times.values())
    assert downscale.downscale is kernel  # without the timer
