"""Figures of a corpus: how long its documents are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.plots.style import COLOURS, WIDE, drawing


def length_histograms(
    lengths: Mapping[str, Sequence[Mapping[str, int]]],
    path: Path,
    *,
    title: str = "Length of the documents",
    size: tuple[float, float] = WIDE,
) -> None:
    """Draw a histogram for each unit of length, side by side, or one above the other on a phone.

    Args:
        lengths: by unit, e.g. "tokens": the classes in order, each with `from`, `below` and the
            number of `documents`.
        path: `.png` or `.svg`.
        size: width and height in inches.
    """
    narrow = size[0] < WIDE[0]
    rows, columns = (len(lengths), 1) if narrow else (1, len(lengths))
    with drawing(path, size) as figure:
        for place, (unit, classes) in enumerate(lengths.items(), start=1):
            axes = figure.add_subplot(rows, columns, place)
            axes.bar(
                range(len(classes)),
                [one["documents"] for one in classes],
                width=1.0,
                align="edge",
                color=COLOURS["training"],
                edgecolor=COLOURS["paper"],
            )
            axes.spines["top"].set_visible(False)
            edges = [one["from"] for one in classes] + [one["below"] for one in classes[-1:]]
            step = max(len(edges) // 5, 1)
            axes.set_xticks(range(0, len(edges), step), [_short(edge) for edge in edges[::step]])
            axes.set(
                xlabel=f"{unit} in a document", ylabel="documents" if narrow or place == 1 else ""
            )
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontweight="bold")


def _short(number: int) -> str:
    """Powers of two as people write them: 512, 4k, 2M."""
    for scale, letter in ((1 << 30, "G"), (1 << 20, "M"), (1 << 10, "k")):
        if number >= scale:
            return f"{number // scale}{letter}"
    return str(number)
