"""A figure for a page: the same numbers drawn for wide and for narrow screens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.reporting.html import Figure
from pipeline.reporting.plots import NARROW, WIDE

Draw = Callable[[Path, tuple[float, float]], None]


def drawn(draw: Draw, alt: str, caption: str) -> Figure:
    """Draw both.

    Args:
        draw: takes a path that ends in `.svg`, and a size in inches.
        alt: the figure in words, for who cannot see it.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder, "figure.svg")
        drawings = []
        for size in (WIDE, NARROW):
            draw(path, size)
            drawings.append(path.read_text(encoding="utf-8"))
    wide, narrow = drawings
    return Figure(wide=wide, narrow=narrow, alt=alt, caption=caption)
