"""The comparison's figures: drawn for a page, in two widths, with the words for who cannot see
them; and the PNG of losses against sizes for README and MLflow.

Rows come by key, as `comparison.json` orders them: `untrained`, `scratch_best`, `scratch_last`,
`gpt2_124M` and so on.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.comparison.columns import Row
from pipeline.comparison.size_figure import SizePoint, loss_by_size
from pipeline.pages.figure import Figure, drawn
from pipeline.plots.curves import loss_curves
from pipeline.plots.style import compact

if TYPE_CHECKING:
    from pandas import DataFrame


def training_figure(history: DataFrame, rows: Mapping[str, Row]) -> Figure:
    """The loss curves, with GPT-2's validation losses as levels.

    Args:
        history: `reports/history.csv`; one row at least.
        rows: whose measured GPT-2 rows become the levels.
    """
    last = history.iloc[-1]
    tokens_per_epoch = round(last["tokens_seen"] / last["epoch"]) if last["epoch"] > 0 else 1
    levels = {row["model"].split(" (")[0]: row["val_loss"] for row in _measured_gpt2(rows)}

    def draw(path: Path, size: tuple[float, float]) -> None:
        loss_curves(
            history,
            path,
            tokens_per_epoch=tokens_per_epoch,
            references=levels,
            title="",
            size=size,
        )

    best = history.iloc[int(history["val_loss"].argmin())]
    first = history.iloc[0]
    alt = (
        f"Training loss goes from {first['train_loss']:.2f} to {last['train_loss']:.2f} in "
        f"{last['epoch']:.3g} epochs. Validation loss goes from {first['val_loss']:.2f} to "
        f"{best['val_loss']:.2f}, its best, at epoch {best['epoch']:.1f}, and ends at "
        f"{last['val_loss']:.2f}."
    )
    caption = (
        "Loss as training went, on the validation text and on a fixed part of the training "
        "text. The ring marks the best validation loss; the weights of that moment are kept."
    )
    if levels:
        caption += " The dotted levels are GPT-2's losses on the same validation text."
    return drawn(draw, alt, caption)


def size_figure(rows: Mapping[str, Row]) -> Figure | None:
    """Validation loss against parameters; None where only the scratch model has a loss."""
    points = _points(rows)
    if all(point.kind == "scratch" for point in points):
        return None

    def draw(path: Path, size: tuple[float, float]) -> None:
        untrained = rows["untrained"]["val_loss"]
        missing = _missing(rows)
        loss_by_size(points, path, untrained=untrained, missing=missing, title="", size=size)

    named = [
        f"{row['model']}, {compact(row['parameters'])} parameters, {row['val_loss']:.2f}"
        for row in rows.values()
        if row["val_loss"] is not None
    ]
    caption = "Validation loss against the number of parameters, on a log axis."
    if any(point.kind == "published" for point in points):
        caption += " Rings are the losses that the book publishes for this text."
    return drawn(draw, f"Validation loss by model: {'; '.join(named)}.", caption)


def draw_sizes(rows: Mapping[str, Row], path: Path) -> None:
    """Write the figure of losses against sizes as a PNG."""
    untrained = rows["untrained"]["val_loss"]
    loss_by_size(_points(rows), path, untrained=untrained, missing=_missing(rows))


def _points(rows: Mapping[str, Row]) -> list[SizePoint]:
    best, last = rows["scratch_best"], rows["scratch_last"]
    name = best["model"].replace(" (best)", ", best")
    points = [SizePoint(name, best["parameters"], best["val_loss"], "scratch")]
    if last["val_loss"] != best["val_loss"]:
        points.append(SizePoint("last", last["parameters"], last["val_loss"], "scratch"))
    for key, row in rows.items():
        if not key.startswith("gpt2_"):
            continue
        name = _short(row)
        if row["val_loss"] is not None:
            points.append(SizePoint(name, row["parameters"], row["val_loss"], "gpt2"))
        if row["published_val_loss"] is not None:
            points.append(SizePoint(name, _size(key), row["published_val_loss"], "published"))
    return points


def _missing(rows: Mapping[str, Row]) -> dict[str, float]:
    """Name and size of each GPT-2 without any loss."""
    return {
        _short(row): _size(key)
        for key, row in rows.items()
        if row["val_loss"] is None and row["published_val_loss"] is None
    }


def _short(row: Row) -> str:
    """`GPT-2 small (124M)` -> `small`."""
    return str(row["model"]).split(" (")[0].removeprefix("GPT-2 ")


def _size(key: str) -> float:
    """`gpt2_124M` -> 124e6."""
    return float(key.removeprefix("gpt2_").removesuffix("M")) * 1e6


def _measured_gpt2(rows: Mapping[str, Row]) -> list[Row]:
    return [r for k, r in rows.items() if k.startswith("gpt2_") and r["val_loss"] is not None]
