"""A figure for a page: the same numbers drawn for wide and for narrow screens, as inline SVG."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from markupsafe import Markup, escape

from pipeline.plots.style import NARROW, WIDE, in_tags
from pipeline.system.text import printable

Draw = Callable[[Path, tuple[float, float]], None]


@dataclass(frozen=True)
class Figure:
    """A drawing for wide and one for narrow pages, both as SVG elements."""

    wide: str
    narrow: str
    alt: str
    caption: str


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


def numbered(figures: Mapping[str, Figure], first: int = 1) -> list[tuple[str, Figure, Markup]]:
    """Heading, figure and its drawings, whose ids carry the figure's number."""
    return [
        (heading, figure, _svgs(number, figure))
        for number, (heading, figure) in enumerate(figures.items(), start=first)
    ]


def _svgs(number: int, figure: Figure) -> Markup:
    drawings = (("wide", figure.wide), ("narrow", figure.narrow))
    return Markup("").join(
        inline(svg, f"f{number}{name[0]}-", name, figure.alt) for name, svg in drawings
    )


def inline(svg: str, prefix: str, css_class: str, alt: str) -> Markup:
    """An SVG element of ours as part of a page: named for readers, its ids its own."""

    def changed(tag: str) -> str:
        tag = re.sub(r' xmlns(:\w+)?="[^"]*"', "", tag).replace("xlink:href", "href")
        return re.sub(r"\bid=\"|url\(#|href=\"#", lambda match: match[0] + prefix, tag)

    label = f'<svg class="{css_class}" role="img" aria-label="{escape(printable(alt))}"'
    return Markup(in_tags(svg, changed).replace("<svg", label, 1))
