"""The comparison as one page that stands alone: no script, no network, no other file.

Everything that is not ours (what models wrote, names, reasons, params) is escaped by Jinja, and
the page's own policy forbids scripts and requests besides. Light and dark follow the reader's
system; the figures are inline SVG whose colours follow too, in a wide and a narrow drawing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.comparison.columns import HEADINGS, Row, rounded
from pipeline.pages import shading
from pipeline.pages.figure import Figure, numbered
from pipeline.pages.template import template

if TYPE_CHECKING:
    from pipeline.comparison.corpus_section import CorpusSection
    from pipeline.sampling.section import SamplingSection

LINE = 96  # characters of the shaded text
FIRST_LINES = 6  # shown before the reader asks for the rest


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
    return template("pipeline.comparison", "comparison.html.j2").render(
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
