"""The comparison's figures: drawn for a page, in two widths, with the words for who cannot see
them; and the PNG of losses against sizes for README and MLflow.

Models come by key, in the order of the table: `untrained`, `scratch_best`, `scratch_last`,
`gpt2_124M` and so on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from pandas import DataFrame

from pipeline.comparison.size_figure import SizeKind, SizePoint, loss_by_size
from pipeline.comparison.table import ComparedModel, interval_of
from pipeline.comparison.uncertainty import Interval
from pipeline.numbers import counted, shown
from pipeline.pages.figure import Figure, drawn
from pipeline.plots.curves import loss_curves
from pipeline.plots.style import compact

Models = Mapping[str, ComparedModel]


def training_figure(history: DataFrame, models: Models) -> Figure:
    """The loss curves, with GPT-2's validation losses as levels, and how sure they are.

    Args:
        history: `reports/history.csv`; one row at least.
        models: whose measured GPT-2 sizes become the levels; `scratch_best` and `scratch_last`
            give the curve's best point and its end their intervals.
    """
    last = history.iloc[-1]
    tokens_per_epoch = round(last["tokens_seen"] / last["epoch"]) if last["epoch"] > 0 else 1
    measured = [m for m in models.values() if m.size and m.val]
    levels = {m.size.title: m.val.loss for m in measured if m.size and m.val}
    bands = {m.size.title: i for m in measured if m.size and (i := _val_interval(m))}
    best, first = history.iloc[int(history["val_loss"].argmin())], history.iloc[0]
    ends = {"scratch_best": best, "scratch_last": last}
    bars = {row["tokens_seen"]: i for key, row in ends.items() if (i := _val_interval(models[key]))}

    def draw(path: Path, size: tuple[float, float]) -> None:
        loss_curves(
            history,
            path,
            tokens_per_epoch=tokens_per_epoch,
            references=levels,
            bands=bands,
            bars=bars,
            title="",
            size=size,
        )

    bars_in_words = {key: _bracket(_val_interval(models[key])) for key in ends}
    alt = (
        f"Training loss goes from {shown(first['train_loss'], 2)} to "
        f"{shown(last['train_loss'], 2)} in {counted(int(last['step']), 'step')}. Validation loss "
        f"goes from {shown(first['val_loss'], 2)} to {shown(best['val_loss'], 2)}"
        f"{bars_in_words['scratch_best']}, its best, at epoch {best['epoch']:.1f}, and ends at "
        f"{shown(last['val_loss'], 2)}{bars_in_words['scratch_last']}."
    )
    caption = (
        "Loss as training went, on the validation text and on a fixed part of the training "
        "text. The ring marks the best validation loss; the weights of that moment are kept."
    )
    if levels:
        caption += " The dotted levels are GPT-2's losses on the same validation text."
        named = [f"{name} {shown(x, 2)}{_bracket(bands.get(name))}" for name, x in levels.items()]
        alt += f" Levels: {'; '.join(named)}."
    if bands or bars:
        caption += " Bars and bands are 95 % intervals."
    return drawn(draw, alt, caption)


def size_figure(models: Models) -> Figure | None:
    """The loss that models are judged by against parameters; None where only ours has one."""
    points, untrained = _drawn(models)
    if all(point.kind == "scratch" for point in points):
        return None

    text, missing = judged_text(models), _missing(models)

    def draw(path: Path, size: tuple[float, float]) -> None:
        loss_by_size(
            points, path, untrained=untrained, missing=missing, text=text, title="", size=size
        )

    named = [
        f"{model.name}, {compact(model.parameters)} parameters, {shown(model.judged.loss, 2)}"
        f"{_bracket(model.judged_interval)}"
        for model in models.values()
        if model.judged and model.parameters
    ]
    caption = f"{text.capitalize()} loss against the number of parameters, on a log axis."
    if any(point.interval for point in points):
        caption += " Bars are 95 % intervals."
    if any(point.kind == "published" for point in points):
        caption += " Rings are the losses that the book publishes for this text."
    return drawn(draw, f"{text.capitalize()} loss by model: {'; '.join(named)}.", caption)


def draw_sizes(models: Models, path: Path) -> None:
    """Write the figure of losses against sizes as a PNG."""
    points, untrained = _drawn(models)
    loss_by_size(
        points, path, untrained=untrained, missing=_missing(models), text=judged_text(models)
    )


def judged_text(models: Models) -> str:
    """`validation`, or `test` where there is one."""
    return "test" if any(model.test for model in models.values()) else "validation"


def _val_interval(model: ComparedModel) -> Interval | None:
    return interval_of(model.uncertainty.get("val"))


def _bracket(interval: Interval | None) -> str:
    """` [3.41, 3.72]`, or nothing."""
    return f" [{shown(interval[0], 2)}, {shown(interval[1], 2)}]" if interval else ""


def _drawn(models: Models) -> tuple[list[SizePoint], float | None]:
    """What has a place in the figure, which a loss that is NaN or infinite has not."""
    untrained = _loss(models["untrained"])
    points = [point for point in _points(models) if math.isfinite(point.loss)]
    return points, untrained if math.isfinite(untrained) else None


def _points(models: Models) -> list[SizePoint]:
    best = models["scratch_best"]
    points = [_measured_point(best.name.replace(" (best)", ", best"), best, "scratch")]
    others = {"scratch_last": "last", "scratch_ema": "averaged", "ensemble": "ensemble"}
    for key, name in others.items():
        if key in models and _loss(models[key]) != _loss(best):
            points.append(_measured_point(name, models[key], "scratch"))
    for model in models.values():
        if model.size is None:
            continue
        name, published = model.size.short_title, model.published_val_loss
        if model.judged is not None:
            points.append(_measured_point(name, model, "gpt2"))
        if published is not None:
            parameters = model.size.nominal_parameters
            points.append(SizePoint(name, parameters, published, "published"))
    return points


def _measured_point(name: str, model: ComparedModel, kind: SizeKind) -> SizePoint:
    assert model.parameters is not None
    return SizePoint(name, model.parameters, _loss(model), kind, model.judged_interval)


def _loss(model: ComparedModel) -> float:
    assert model.judged is not None, f"{model.name} was measured"
    return model.judged.loss


def _missing(models: Models) -> dict[str, float]:
    """Name and number of parameters of each GPT-2 without any loss."""
    return {
        model.size.short_title: model.size.nominal_parameters
        for model in models.values()
        if model.size and model.val is None and model.published_val_loss is None
    }
