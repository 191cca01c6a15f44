"""Samples and their metrics as Markdown, with the figures beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.numbers import counted, shown
from pipeline.reports import FullSampleReport, SampledText, SettingMetrics
from pipeline.sampling.figures import next_token_bars, sampling_heat_maps
from pipeline.sampling.presentation import (
    axes,
    by_text,
    cells_of,
    longest_copy,
    measured,
    settings_of,
    top_k_name,
)
from pipeline.system.markdown import fenced, inline, table
from pipeline.system.text import running, shortened


def draw(report: FullSampleReport, grid: Path, next_token: Path) -> None:
    """Draw the heat maps at `grid` and the next token's distribution at `next_token`."""
    shown = [metric for metric in measured(report.grid) if metric.figure_place is not None]
    shown.sort(key=lambda metric: metric.figure_place or 0)
    temperatures, top_ks = axes(report.grid)
    sampling_heat_maps(
        {metric.title: cells_of(report.grid, metric) for metric in shown},
        grid,
        temperatures=temperatures,
        top_ks=top_ks,
    )
    _draw_next_token(report, next_token)


def _draw_next_token(report: FullSampleReport, path: Path) -> None:
    by_temperature = [one for one in report.next_token if one.filter == "temperature"]
    by_top_k = [one for one in report.next_token if one.filter == "top_k"]
    next_token_bars(
        report.next_token[0].tokens,
        {
            "by temperature, every token kept": {
                f"{one.temperature:g}": [*one.probabilities, one.others] for one in by_temperature
            },
            f"by top-k, at temperature {by_top_k[0].temperature:g}": {
                top_k_name(one.top_k): [*one.probabilities, one.others] for one in by_top_k
            },
        },
        path,
        title=f"The next token after “{shortened(running(report.prompts[0]), 40)}”",
    )


def markdown(report: FullSampleReport, grid: str, next_token: str) -> str:
    """The metrics as a table, the longest copy, the figures by name, and every sample."""
    parts = [
        "# Samples",
        _table(report.grid),
        _longest_copy(report.samples),
        f"![What temperature and top-k do to samples]({grid})",
        f"![The next token's distribution]({next_token})",
    ]
    for prompt in report.prompts:
        parts.append(f"## {inline(prompt)}")
        for settings, sample in by_text([s for s in report.samples if s.prompt == prompt]):
            parts += [f"**{settings}** ({_remark(sample)})", fenced(sample.completion)]
    return "\n\n".join(parts) + "\n"


def _table(grid: Sequence[SettingMetrics]) -> str:
    metrics = measured(grid)
    headings = ["temperature", "top-k", *(metric.title for metric in metrics)]
    rows = []
    for setting in grid:
        found = [setting.metrics.get(metric.name) for metric in metrics]
        numbers = ["" if number is None else f"{number:.3g}" for number in found]
        rows.append([f"{setting.temperature:g}", top_k_name(setting.top_k), *numbers])
    return table(headings, rows, headings).rstrip()


def _longest_copy(samples: Sequence[SampledText]) -> str:
    longest = longest_copy(samples)
    if longest is None:
        return "No sample shares a run of eight tokens or more with the training text."
    return (
        f"The longest passage that stands word for word in the training text, "
        f"{longest.longest_copy_tokens} tokens, from “{inline(longest.prompt)}” at "
        f"{settings_of(longest)}:\n\n{fenced(longest.longest_copy)}"
    )


def _remark(sample: SampledText) -> str:
    """A completion's length, likelihood and copying."""
    remark = f"{counted(sample.tokens, 'token')}, log-probability {shown(sample.mean_log_prob, 2)}"
    if sample.longest_copy_tokens:
        remark += (
            f", {sample.copied:.0%} copied, {sample.longest_copy_tokens} tokens in a row: "
            f"“{inline(sample.longest_copy)}”"
        )
    return remark
