"""The comparison's columns, and all that follows from them: CSV, Markdown, JSON and metrics.

A new column is one entry of `COLUMNS`; the page's table (`page`, its template) reads them too.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.comparison.table import ComparedModel, Comparison, Judged, interval_of
from pipeline.comparison.uncertainty import Interval
from pipeline.numbers import shown
from pipeline.reports import ComparisonReport
from pipeline.system.markdown import table

CHOSEN_HERE = "chosen on these windows"


@dataclass(frozen=True)
class Column:
    """A column of the comparison.

    Attributes:
        name: in CSV, JSON and MLflow.
        heading: in tables for people.
        value: a model's cell; None where there is none.
        text: a value as people read it.
        kind: a `measured` number is missing where its model was not measured, and the page shows
            the status instead; tables for people have `published` ones where there are any, and
            no `note`.
        interval: the value's 95 % interval: in JSON a pair, `NAME_interval`; in CSV and MLflow
            `NAME_low` and `NAME_high`.
        metric: models are compared by it: a number of `models` in JSON, and a metric of MLflow.
        marks_lowest: the page marks the lowest value.
        where_known: tables for people have it, too, where there are any.
    """

    name: str
    heading: str
    value: Callable[[ComparedModel], Any]
    text: Callable[[Any], str] = str
    kind: Literal["name", "measured", "published", "status", "note"] = "measured"
    interval: Callable[[ComparedModel], Interval | None] | None = None
    metric: bool = False
    marks_lowest: bool = False
    where_known: bool = False

    def shown(self, model: ComparedModel) -> str:
        """The cell as people read it."""
        value = self.value(model)
        return "" if value is None else self.text(value)

    def interval_shown(self, model: ComparedModel) -> str:
        """`[2.104, 2.481]`; nothing where there is none, or a point, as of the reference itself."""
        low, high = (self.interval and self.interval(model)) or (0.0, 0.0)
        return f"[{self.text(low)}, {self.text(high)}]" if low < high else ""


def of_losses(
    split: Literal["train", "val", "test"], number: str
) -> Callable[[ComparedModel], Any]:
    """The value of a column that shows `number` of a split's `Losses`."""
    return lambda model: getattr(getattr(model, split), number, None)


def of_interval(split: Judged) -> Callable[[ComparedModel], Interval | None]:
    return lambda model: interval_of(model.uncertainty.get(split))


def _perplexity(value: float) -> str:
    return shown(value, 0 if value >= 1000 else 1)


def _signed(value: float) -> str:
    """`+0.503`, `−2.291`, `0`."""
    return f"{'−' if value < 0 else '+'}{shown(abs(value))}" if value else "0"


def _without_reason(status: str) -> str:
    """`unavailable: no network` -> `unavailable`; a note gives the reason once for all rows."""
    return status.partition(":")[0]


# The first eight are `comparison.csv`'s from the first release on; what came later stands behind.
COLUMNS = [
    Column("model", "model", lambda model: model.name, kind="name"),
    Column("parameters", "parameters", lambda model: model.parameters, "{:,}".format),
    Column("train_loss", "training loss", of_losses("train", "loss"), shown, metric=True),
    Column(
        "val_loss",
        "validation loss",
        of_losses("val", "loss"),
        shown,
        interval=of_interval("val"),
        metric=True,
        marks_lowest=True,
    ),
    Column(
        "val_perplexity", "perplexity", of_losses("val", "perplexity"), _perplexity, metric=True
    ),
    Column(
        "val_bits_per_byte",
        "bits per byte",
        of_losses("val", "bits_per_byte"),
        shown,
        metric=True,
    ),
    Column(
        "published_val_loss",
        "published",
        lambda model: model.published_val_loss,
        "{:.4f}".format,
        kind="published",
    ),
    Column("status", "status", lambda model: model.status, _without_reason, kind="status"),
    Column(
        "test_loss",
        "test loss",
        of_losses("test", "loss"),
        shown,
        interval=of_interval("test"),
        metric=True,
        marks_lowest=True,
        where_known=True,
    ),
    Column(
        "test_perplexity",
        "test perplexity",
        of_losses("test", "perplexity"),
        _perplexity,
        metric=True,
        where_known=True,
    ),
    Column(
        "test_bits_per_byte",
        "test bits per byte",
        of_losses("test", "bits_per_byte"),
        shown,
        metric=True,
        where_known=True,
    ),
    Column(
        "difference",
        "difference",
        lambda model: model.difference and model.difference.nats,
        _signed,
        interval=lambda model: interval_of(model.difference),
        metric=True,
        where_known=True,
    ),
    Column(
        "loss_without_copies",
        "without copied text",
        lambda model: model.without_copies and model.without_copies.nats,
        shown,
        interval=lambda model: interval_of(model.without_copies),
        metric=True,
        where_known=True,
    ),
    Column("interval_note", "note", lambda model: model.interval_note, kind="note"),
]


def columns_for(models: Iterable[ComparedModel]) -> list[Column]:
    """The columns of a table for people: those that say something, the status last."""
    models = list(models)
    shown = [
        column
        for column in COLUMNS
        if column.kind != "note"
        and (
            not (column.where_known or column.kind == "published")
            or any(column.value(model) is not None for model in models)
        )
    ]
    return sorted(shown, key=lambda column: column.kind == "status")


def cells(model: ComparedModel) -> dict[str, Any]:
    """A model's values by column, as `comparison.json` has them."""
    intervals = {f"{c.name}_interval": c.interval(model) for c in COLUMNS if c.interval}
    return {column.name: column.value(model) for column in COLUMNS} | intervals


def flat_cells(model: ComparedModel) -> dict[str, Any]:
    """The same, each cell a number or a text: an interval by its ends."""
    flat = {column.name: column.value(model) for column in COLUMNS}
    for column in COLUMNS:
        if column.interval:
            low, high = column.interval(model) or (None, None)
            flat |= {f"{column.name}_low": low, f"{column.name}_high": high}
    return flat


def to_csv(models: Iterable[ComparedModel]) -> str:
    """A line per model under a header, with every digit; a cell without a value is empty."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(flat_cells(ComparedModel(""))), lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(flat_cells, models))
    return file.getvalue()


def to_markdown(models: Iterable[ComparedModel]) -> str:
    """A table for people; losses in nats per token."""
    models = list(models)
    columns = columns_for(models)
    numbers = {column.heading for column in columns if column.kind in ("measured", "published")}
    rows = ([_markdown(column, model) for column in columns] for model in models)
    return table([column.heading for column in columns], rows, numbers)


def _markdown(column: Column, model: ComparedModel) -> str:
    remark = f", {CHOSEN_HERE}" if column.kind == "status" and model.chosen_here else ""
    return f"{column.shown(model)} {column.interval_shown(model)}".rstrip() + remark


def metrics(comparison: Comparison) -> dict[str, dict[str, float]]:
    """The numbers that measured models are compared by, by the model's key and by column."""
    names = [column.name for column in COLUMNS if column.metric]
    names += [f"{name}_{end}" for name in names for end in ("low", "high")]
    return {
        key: {name: value for name in names if (value := numbers.get(name)) is not None}
        for key, model in comparison.models.items()
        if model.reason is None and (numbers := flat_cells(model))
    }


def comparison_report(comparison: Comparison, verdict: str) -> ComparisonReport:
    """What `reports/comparison.json` holds."""
    return ComparisonReport(
        verdict=verdict,
        rows=tuple(map(cells, comparison.models.values())),
        models=metrics(comparison),
    )
