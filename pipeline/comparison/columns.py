"""The comparison as a table: CSV with every digit, Markdown with those that people read."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.pages.markdown import markdown_line
from pipeline.pages.template import in_a_word

COLUMNS = (
    "model",
    "parameters",
    "train_loss",
    "val_loss",
    "val_perplexity",
    "val_bits_per_byte",
    "published_val_loss",
    "status",
)
HEADINGS = {
    "parameters": "parameters",
    "train_loss": "training loss",
    "val_loss": "validation loss",
    "val_perplexity": "perplexity",
    "val_bits_per_byte": "bits a byte",
    "published_val_loss": "published",
}

Row = Mapping[str, Any]


def to_csv(rows: Iterable[Row]) -> str:
    """One line a model under a header of `COLUMNS`; a cell without a number is empty."""
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def to_markdown(rows: Iterable[Row]) -> str:
    """A table for people; losses in nats a token."""
    lines = [markdown_line(["model", *HEADINGS.values(), "status"])]
    lines.append(markdown_line(["---", *(["---:"] * len(HEADINGS)), "---"]))
    for row in rows:
        numbers = [rounded(column, row[column]) for column in HEADINGS]
        lines.append(markdown_line([row["model"], *numbers, in_a_word(row["status"])]))
    return "".join(lines)


def rounded(column: str, value: float | None) -> str:
    """A number of that column as people read it; nothing where there is none."""
    if value is None:
        return ""
    if column == "parameters":
        return f"{value:,}"
    if column == "val_perplexity":
        return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}"
    return f"{value:.4f}" if column == "published_val_loss" else f"{value:.3f}"
