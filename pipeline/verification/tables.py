"""`comparison.json` and `comparison.csv` beside the reports that they are made of."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.comparison.columns import cells, flat_cells, metrics
from pipeline.comparison.table import Comparison
from pipeline.errors import UserError
from pipeline.reports import ComparisonReport
from pipeline.system.files import read_bounded
from pipeline.system.text import quoted
from pipeline.verification.check import SPLITS, difference

SAME = 1e-9  # of a number, between machines that add in another order


def table_problems(reports: Path, comparison: Comparison) -> Iterator[str]:
    """Where the tables say something else than what follows from the reports, a line each.

    Raises:
        UserError: a table is missing, or is none.
    """
    json_file, csv_file = reports / "comparison.json", reports / "comparison.csv"
    report, lines = ComparisonReport.read(json_file), _csv_rows(csv_file)
    tables = ((json_file, report.rows, cells), (csv_file, lines, flat_cells))
    numbers = metrics(comparison)
    for key, model in comparison.models.items():
        found = [
            (file, row, wanted(model))
            for file, rows, wanted in tables
            for row in rows
            if row.get("model") == model.name
        ]
        if [file for file, *_ in found] != [json_file, csv_file]:
            yield f"{model.name}: not once in each of {json_file} and {csv_file}"
        if model.reason is None:
            found.append((json_file, report.models.get(key, {}), numbers[key]))
        for file, row, wanted_cells in found:
            yield from _wrong_cells(model.name, file, row, wanted_cells)
    names = {model.name for model in comparison.models.values()}
    for file, rows, _ in tables:
        for name in (row.get("model") for row in rows):
            if name not in names:
                yield f"{quoted(name)}: a row of {file} that the reports and gpt2.sizes lack"


def _csv_rows(path: Path) -> list[dict[str, Any]]:
    try:
        text = read_bounded(path).decode("utf-8", "replace")
        return list(csv.DictReader(io.StringIO(text)))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; `dvc repro` writes it") from None
    except csv.Error as error:
        raise UserError(f"{path}: no table ({error}); `dvc repro -f compare` writes it") from None


def _wrong_cells(
    name: str, file: Path, row: Mapping[str, Any], wanted: Mapping[str, Any]
) -> Iterator[str]:
    for column, value in wanted.items():
        split = column.partition("_")[0]
        where = f"{name}, {split}" if split in SPLITS else name
        if column not in row:
            yield f"{where}: {file} has no {column}"
        elif not _same(row[column], value):
            yield (
                f"{where}: {column} is {quoted(row[column])} in {file} where the reports have "
                f"{value}"
            )


def _same(cell: Any, wanted: Any) -> bool:
    """Whether a cell says it; one that is empty also says that a number is not finite."""
    if cell in (None, ""):
        return wanted in (None, "") or (isinstance(wanted, float) and not math.isfinite(wanted))
    if isinstance(wanted, tuple):
        return isinstance(cell, list | tuple) and len(cell) == 2 and all(map(_same, cell, wanted))
    if not isinstance(wanted, int | float):
        return bool(cell == wanted)
    try:
        size = abs(wanted) if math.isfinite(wanted) else 0.0
        return difference(float(cell), wanted) <= SAME * max(1.0, size)
    except (TypeError, ValueError):
        return False
