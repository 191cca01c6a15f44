"""A sweep as one page that stands alone, and as Markdown for MLflow and Git."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.pages.figure import Figure, numbered
from pipeline.pages.markdown import markdown_line
from pipeline.pages.template import template


@dataclass(frozen=True)
class Table:
    """Words in rows; the first cell names its row.

    Attributes:
        texts: the headings of columns that hold words rather than numbers.
        first_is_best: the first row is to stand out.
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    texts: frozenset[str] = frozenset()
    first_is_best: bool = False

    def is_text(self, column: int) -> bool:
        return column == 0 or self.headings[column] in self.texts


@dataclass(frozen=True)
class SweepPage:
    """What the page shows.

    Attributes:
        subject: what was swept, in words.
        verdict: the headline.
        tables: the first one comes before the figures.
        figures: by heading.
        facts: how it was made, in words.
    """

    subject: str
    verdict: str
    tables: Sequence[Table]
    figures: Mapping[str, Figure] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)


def render_sweep(page: SweepPage) -> str:
    """The whole page as HTML; equal pages give equal text."""
    return template("pipeline.sweep", "sweep.html.j2").render(
        page=page, figures=numbered(page.figures)
    )


def sweep_markdown(page: SweepPage, picture: str | None) -> str:
    """The same in Markdown; the figures as one picture beside it, where there is one."""
    parts = [f"# {page.subject}\n", f"{page.verdict}\n"]
    for number, table in enumerate(page.tables):
        note = [f"{table.note}\n"] if table.note else []
        parts += [f"## {table.title}\n", *note, _table(table)]
        if number == 0 and picture is not None:
            parts.append(f"![The figures of the sweep]({picture})\n")
    parts.append("## How it was made\n")
    parts.append("".join(f"- {name}: {fact}\n" for name, fact in page.facts.items()))
    return "\n".join(parts)


def _table(table: Table) -> str:
    rule = ["---" if table.is_text(i) else "---:" for i in range(len(table.headings))]
    return "".join(map(markdown_line, [table.headings, rule, *table.rows]))
