"""The comparison for readers: one HTML page that stands alone, and the same in Markdown.

Everything that is not ours (what models wrote, names, reasons, params) is escaped by Jinja, and
the page's own policy forbids scripts and requests besides. Light and dark follow the reader's
system; the figures are inline SVG whose colours follow too, in a wide and a narrow drawing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup, escape

from pipeline.comparison import columns
from pipeline.comparison.corpus_section import CorpusSection
from pipeline.comparison.table import ComparedModel
from pipeline.gpt2.sizes import SIZES
from pipeline.pages import shading
from pipeline.pages.figure import Figure, numbered
from pipeline.pages.template import template
from pipeline.sampling.section import SamplingSection
from pipeline.system.markdown import inline
from pipeline.system.text import printable

LINE = 96  # characters of the shaded text
FIRST_LINES = 6  # shown before the reader asks for the rest


@dataclass(frozen=True)
class ComparisonPage:
    """What the page shows; a part that is empty or None is left out.

    Attributes:
        subject: what was measured on, as `the-verdict`.
        verdict: the headline.
        rows: the models of the table.
        notes: sentences under the table.
        figures: by heading.
        remarks: sentences on what may puzzle in them.
        models: names, in the order of each span's losses.
        windows: the validation text as spans.
        completions: prompt to model to continuation.
        sampling: see `sampling_section`.
        corpus: see `corpus_section`.
        facts: how it was made, in words.
        params: the settings of text and training, by their dotted keys.
    """

    subject: str
    verdict: str
    rows: Sequence[ComparedModel]
    notes: Sequence[str] = ()
    figures: Mapping[str, Figure] = field(default_factory=dict)
    remarks: Sequence[str] = ()
    models: Sequence[str] = ()
    windows: Sequence[Sequence[shading.TextSpan]] = ()
    completions: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    sampling: SamplingSection | None = None
    corpus: CorpusSection | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)


def render_html(page: ComparisonPage) -> str:
    """The whole page; equal pages give equal text."""
    lines = shading.shaded_lines(page.windows, LINE)
    lengths = {"Lengths": page.corpus.lengths} if page.corpus and page.corpus.lengths else {}
    shown = columns.columns_for(page.rows)
    of_kind = {c.kind: [one for one in shown if one.kind == c.kind] for c in columns.COLUMNS}
    return template("pipeline.comparison", "comparison.html.j2").render(
        page=page,
        figures=numbered(page.figures),
        lengths=numbered(lengths, first=len(page.figures) + 1),
        name=of_kind["name"][0],
        status=of_kind["status"][0],
        measured=of_kind["measured"],
        published=of_kind["published"],
        chosen_here=columns.CHOSEN_HERE,
        lowest=_lowest(page.rows),
        unbroken=unbroken,
        first_lines=lines[:FIRST_LINES],
        more_lines=lines[FIRST_LINES:],
        light=shading.scale(shading.LIGHT),
        dark=shading.scale(shading.DARK),
    )


def render_markdown(page: ComparisonPage) -> str:
    """The verdict, the table, the notes and the remarks."""
    return "\n".join(
        [
            f"# {inline(page.subject)}: the comparison\n",
            f"{inline(page.verdict)}\n",
            columns.to_markdown(page.rows),
            *(f"{inline(note)}\n" for note in page.notes),
            *(["## What may puzzle\n"] if page.remarks else []),
            *(f"- {inline(remark)}\n" for remark in page.remarks),
        ]
    )


def unbroken(text: str) -> Markup:
    """Escaped text in which no line ends within `GPT-2 XL (1558M)`."""
    titles = "|".join(re.escape(size.title) for size in SIZES.values())
    name = rf"({titles}|GPT-2)( \(({'|'.join(map(re.escape, SIZES))})\))?"
    return Markup(
        re.sub(name, r'<span class="unbroken">\g<0></span>', str(escape(printable(text))))
    )


def _lowest(models: Sequence[ComparedModel]) -> dict[str, float]:
    """The lowest value of the column that marks it: the test's where there is one."""
    marked = [column for column in columns.columns_for(models) if column.marks_lowest][-1:]
    return {
        column.name: min(values)
        for column in marked
        if (values := [v for m in models if (v := column.value(m)) is not None and v == v])
    }  # NaN is none
