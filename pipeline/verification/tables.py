"""`comparison.json` and `comparison.csv` beside the reports that they are made of."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.comparison.table import ComparedModel
from pipeline.errors import UserError
from pipeline.reports import ComparisonReport, Losses
from pipeline.system.files import read_bounded
from pipeline.system.text import quoted
from pipeline.verification.check import SPLITS, difference


def table_problems(reports: Path, models: Mapping[str, ComparedModel]) -> Iterator[str]:
    """Where the tables say something else than the reports, a line each.

    Args:
        models: what the reports say, by key.

    Raises:
        UserError: a table is missing, or is none.
    """
    json_file, csv_file = reports / "comparison.json", reports / "comparison.csv"
    report = ComparisonReport.read(json_file)
    try:
        text = read_bounded(csv_file).decode("utf-8", "replace")
        lines = list(csv.DictReader(io.StringIO(text)))
    except FileNotFoundError:
        raise UserError(f"{csv_file}: no such file; `dvc repro` writes it") from None
    except csv.Error as error:
        raise UserError(
            f"{csv_file}: no table ({error}); `dvc repro -f compare` writes it"
        ) from None
    for key, model in models.items():
        found = [
            (file, row)
            for file, rows in ((json_file, report.rows), (csv_file, lines))
            for row in rows
            if row.get("model") == model.name
        ]
        if [file for file, _ in found] != [json_file, csv_file]:
            yield f"{model.name}: not once in each of {json_file} and {csv_file}"
        if model.reason is None:
            found.append((json_file, report.models.get(key, {})))
        for file, row in found:
            yield from _wrong_cells(model, file, row)


def _wrong_cells(model: ComparedModel, file: Path, row: Mapping[str, Any]) -> Iterator[str]:
    """The cells of `train_loss`, `val_perplexity` and so on that are not the reports' numbers."""
    for split in SPLITS:
        losses = getattr(model, split)
        for number in Losses.model_fields:
            column = f"{split}_{number}"
            is_there = column in row
            wanted = getattr(losses, number, None)
            if number == "loss" and wanted is not None and not is_there:
                yield f"{model.name}, {split}: {file} has no {column}"
            if is_there and not _same(row[column], wanted):
                yield (
                    f"{model.name}, {split}: {column} is {quoted(row[column])} in {file} where the "
                    f"reports have {wanted}"
                )


def _same(cell: Any, wanted: float | None) -> bool:
    if wanted is None or cell in (None, ""):
        return wanted is None and cell in (None, "")
    try:
        return difference(float(cell), wanted) == 0.0
    except (TypeError, ValueError):
        return False
