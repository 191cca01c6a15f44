"""What the Markdown and the page's section share: the grid's numbers and samples, in their order.

Everything comes from the reports as they were written, so both can be made without a model.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.reports import SampledText, SettingMetrics
from pipeline.sampling.metrics import METRICS, SampleMetric

Cells = Sequence[Sequence[float | int | None]]  # temperatures down, top-k across


def measured(grid: Sequence[SettingMetrics]) -> list[SampleMetric]:
    """The metrics that are a number for some setting of the grid."""
    return [
        metric
        for metric in METRICS
        if any(setting.metrics.get(metric.name) is not None for setting in grid)
    ]


def axes(grid: Sequence[SettingMetrics]) -> tuple[list[float], list[int | None]]:
    """The grid's temperatures and its values of top-k."""
    temperatures = dict.fromkeys(setting.temperature for setting in grid)
    return list(temperatures), list(dict.fromkeys(setting.top_k for setting in grid))


def cells_of(grid: Sequence[SettingMetrics], metric: SampleMetric) -> Cells:
    """One metric of the whole grid."""
    found = {(s.temperature, s.top_k): s.metrics.get(metric.name) for s in grid}
    temperatures, top_ks = axes(grid)
    return [[found.get((temperature, top_k)) for top_k in top_ks] for temperature in temperatures]


def by_text(samples: Sequence[SampledText]) -> list[tuple[str, SampledText]]:
    """Each different completion once, behind all the settings that gave it, in words."""
    found: dict[str, list[SampledText]] = {}
    for sample in samples:
        found.setdefault(sample.completion, []).append(sample)
    return [("; ".join(dict.fromkeys(map(settings_of, same))), same[0]) for same in found.values()]


def longest_copy(samples: Sequence[SampledText]) -> SampledText | None:
    """The sample with the longest copied passage; None where none copies anything."""
    longest = max(samples, key=lambda sample: sample.longest_copy_tokens, default=None)
    return longest if longest and longest.longest_copy_tokens else None


def settings_of(sample: SampledText) -> str:
    """Temperature and top-k in words."""
    if sample.temperature == 0 or sample.top_k == 1:
        return "greedy"
    words = f"temperature {sample.temperature:g}"
    return words if sample.top_k is None else f"{words}, top-k {sample.top_k}"


def top_k_name(top_k: int | None) -> str:
    return "all" if top_k is None else str(top_k)
