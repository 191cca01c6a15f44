"""The comparison's columns, and all that follows from them: CSV, Markdown, JSON and metrics.

A new column is one entry of `COLUMNS`; the page's table (`page`, its template) reads them too.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.comparison.table import ComparedModel, Comparison
from pipeline.numbers import shown
from pipeline.reports import ComparisonReport
from pipeline.system.markdown import table


@dataclass(frozen=True)
class Column:
    """A column of the comparison.

    Attributes:
        name: in CSV, JSON and MLflow.
        heading: in tables for people.
        value: a model's cell; None where there is none.
        text: a value as people read it.
        kind: a `measured` number is missing where its model was not measured, and the page shows
            the status instead; `published` ones have a column on the page where there are any.
        metric: models are compared by it: a number of `models` in JSON, and a metric of MLflow.
        marks_lowest: the page marks the lowest value.
    """

    name: str
    heading: str
    value: Callable[[ComparedModel], Any]
    text: Callable[[Any], str] = str
    kind: Literal["name", "measured", "published", "status"] = "measured"
    metric: bool = False
    marks_lowest: bool = False

    def shown(self, model: ComparedModel) -> str:
        """The cell as people read it."""
        value = self.value(model)
        return "" if value is None else self.text(value)


def of_losses(split: Literal["train", "val"], number: str) -> Callable[[ComparedModel], Any]:
    """The value of a column that shows `number` of a split's `Losses`."""
    return lambda model: getattr(getattr(model, split), number, None)


def _perplexity(value: float) -> str:
    return shown(value, 0 if value >= 1000 else 1)


def _without_reason(status: str) -> str:
    """`unavailable: no network` -> `unavailable`; a note gives the reason once for all rows."""
    return status.partition(":")[0]


COLUMNS = [
    Column("model", "model", lambda model: model.name, kind="name"),
    Column("parameters", "parameters", lambda model: model.parameters, "{:,}".format),
    Column("train_loss", "training loss", of_losses("train", "loss"), shown, metric=True),
    Column(
        "val_loss",
        "validation loss",
        of_losses("val", "loss"),
        shown,
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
]


def cells(model: ComparedModel) -> dict[str, Any]:
    """A model's values by column."""
    return {column.name: column.value(model) for column in COLUMNS}


def to_csv(models: Iterable[ComparedModel]) -> str:
    """A line per model under a header, with every digit; a cell without a value is empty."""
    file = io.StringIO()
    writer = csv.DictWriter(file, [column.name for column in COLUMNS], lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(cells, models))
    return file.getvalue()


def to_markdown(models: Iterable[ComparedModel]) -> str:
    """A table for people; losses in nats per token."""
    numbers = {column.heading for column in COLUMNS if column.kind in ("measured", "published")}
    rows = ([column.shown(model) for column in COLUMNS] for model in models)
    return table([column.heading for column in COLUMNS], rows, numbers)


def metrics(comparison: Comparison) -> dict[str, dict[str, float]]:
    """The numbers that measured models are compared by, by the model's key and by column."""
    return {
        key: {column.name: column.value(model) for column in COLUMNS if column.metric}
        for key, model in comparison.models.items()
        if model.reason is None
    }


def comparison_report(comparison: Comparison, verdict: str) -> ComparisonReport:
    """What `reports/comparison.json` holds."""
    return ComparisonReport(
        verdict=verdict,
        rows=tuple(map(cells, comparison.models.values())),
        models=metrics(comparison),
    )
