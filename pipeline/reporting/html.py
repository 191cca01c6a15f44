"""The comparison as one page that stands alone: no script, no network, no other file.

Everything that is not ours (what models wrote, names, reasons, params) is escaped by Jinja, and
the page's own policy forbids scripts and requests besides. Light and dark follow the reader's
system; the figures are inline SVG whose colours follow too, in a wide and a narrow drawing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from pipeline.reporting import shading
from pipeline.reporting.tables import HEADINGS, Row, in_a_word, rounded

if TYPE_CHECKING:
    from jinja2 import Template

    from pipeline.reporting.corpus_section import CorpusSection
    from pipeline.reporting.sampling_section import SamplingSection

LINE = 96  # characters of the shaded text
FIRST_LINES = 6  # shown before the reader asks for the rest


@dataclass(frozen=True)
class Figure:
    """A drawing for wide and one for narrow pages, both as SVG elements."""

    wide: str
    narrow: str
    alt: str
    caption: str


@dataclass(frozen=True)
class Page:
    """What the page shows; a part that is empty or None is left out.

    Attributes:
        subject: what was measured on, as `the-verdict`.
        verdict: the headline.
        rows: of the table, as `tables.COLUMNS` names their cells.
        notes: sentences under the table.
        figures: by heading.
        models: names, in the order of each piece's losses.
        windows: the validation text as pieces.
        completions: prompt to model to continuation.
        sampling: see `sampling_section`.
        corpus: see `corpus_section`.
        facts: how it was made, in words.
        params: every setting, by its dotted key.
    """

    subject: str
    verdict: str
    rows: Sequence[Row]
    notes: Sequence[str] = ()
    figures: Mapping[str, Figure] = field(default_factory=dict)
    models: Sequence[str] = ()
    windows: Sequence[Sequence[shading.Piece]] = ()
    completions: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    sampling: SamplingSection | None = None
    corpus: CorpusSection | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)


def render(page: Page) -> str:
    """The whole page as HTML; equal pages give equal text."""
    lines = shading.shaded_lines(page.windows, LINE)
    lengths = {"Lengths": page.corpus.lengths} if page.corpus and page.corpus.lengths else {}
    published = any(row["published_val_loss"] is not None for row in page.rows)
    measured = {name: words for name, words in HEADINGS.items() if name != "published_val_loss"}
    return template("comparison.html.j2").render(
        page=page,
        figures=numbered(page.figures),
        lengths=numbered(lengths, first=len(page.figures) + 1),
        measured=measured,
        published=published,
        rounded=rounded,
        best=min((row["val_loss"] for row in page.rows if row["val_loss"] is not None), default=0),
        first_lines=lines[:FIRST_LINES],
        more_lines=lines[FIRST_LINES:],
        light=shading.scale(shading.LIGHT),
        dark=shading.scale(shading.DARK),
    )


@lru_cache
def template(name: str) -> Template:
    """A page's template, everything that it is given escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("pipeline.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "running": shading.running,
        "flowing": shading.flowing,
        "visible": shading.visible,
        "unbroken": unbroken,
        "in_a_word": in_a_word,
    }
    return environment.get_template(name)


def unbroken(text: str) -> Markup:
    """Escaped text in which no line ends within `GPT-2 XL`."""
    whole = r'<span class="unbroken">\g<0></span>'
    return Markup(
        re.sub(r"GPT-2( small| medium| large| XL)?( \(\d+M\))?", whole, str(escape(text)))
    )


def numbered(figures: Mapping[str, Figure], first: int = 1) -> list[tuple[str, Figure, Markup]]:
    """Heading, figure and its drawings, whose ids are told apart by the figure's number."""
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
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    svg = re.sub(r"url\(#|href=\"#", lambda match: match[0] + prefix, svg)
    label = f'<svg class="{css_class}" role="img" aria-label="{escape(alt)}"'
    return Markup(svg.replace("<svg", label, 1))
