"""Figures from metrics and arrays. No display is needed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from utils.io.files import write_atomically


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, atomically."""
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=110))


def plot_curves(
    path: Path,
    records: Sequence[Mapping[str, Any]],
    panels: Mapping[str, Sequence[str]],
    xlabel: str = "step",
) -> None:
    """Plot metrics over steps as PNG.

    Args:
        path: the figure's file.
        records: metrics, each with a `step`. A line skips the records without its metric, and
            shows the last of a step.
        panels: title -> names of the metrics in the panel.
        xlabel: label of the x axis.
    """
    figure = Figure(figsize=(4.2 * len(panels), 3.4), layout="constrained")
    for axes, (title, names) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        for name in names:
            last = {r["step"]: r[name] for r in records if r.get(name) is not None}
            points = sorted(last.items())
            if points:
                marker = "o" if len(points) < 30 else ""
                axes.plot(*zip(*points, strict=True), marker=marker, markersize=3, label=name)
        axes.set(title=title, xlabel=xlabel)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        if len(names) > 1 and axes.lines:
            axes.legend(fontsize=8)
    save_figure(figure, path)


def tile_images(rows: Sequence[np.ndarray], scale: int = 2, gap: int = 2) -> np.ndarray:
    """Join rows of images, each uint8 (n, h, w, 3), into one image with white gaps."""
    lines = []
    for row in rows:
        images = np.pad(
            row.repeat(scale, 1).repeat(scale, 2),
            ((0, 0), (gap, gap), (gap, gap), (0, 0)),
            constant_values=255,
        )
        lines.append(np.concatenate(list(images), axis=1))
    return np.concatenate(lines, axis=0)


def save_image(image: np.ndarray, path: Path) -> None:
    """Write an image, uint8 (h, w, 3), as PNG, atomically."""
    from PIL import Image  # a dependency of matplotlib

    write_atomically(path, lambda file: Image.fromarray(image).save(file, format="png"))


def to_uint8(frames: ArrayLike) -> np.ndarray:
    """Frames of floats 0..1 -> uint8 0..255."""
    return np.clip(np.rint(np.asarray(frames) * 255), 0, 255).astype(np.uint8)
