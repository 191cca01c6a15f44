"""The page's section on sampling: the heat maps that say something, and a few samples.

A grid of sixteen settings measures ten things on three prompts. The page shows the metrics that
temperature and top-k decide, the first prompt at each temperature, and folds away the rest; a
metric that is the same everywhere is a sentence, and a text that several settings gave is shown
once, with what it copied from the training text marked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from sys import float_info
from typing import TypeGuard

from pipeline.pages import shading
from pipeline.reports import SampledText, SampleReport, SettingMetrics
from pipeline.sampling.metrics import SampleMetric
from pipeline.sampling.presentation import (
    Cells,
    axes,
    by_text,
    cells_of,
    longest_copy,
    measured,
    settings_of,
    top_k_name,
)

LARGEST = float_info.max
MarkedText = Sequence[tuple[bool, str]]  # pieces of a completion: whether copied, and the text
Texts = Mapping[str, Sequence[tuple[str, MarkedText]]]  # prompt to (settings, completion)


@dataclass(frozen=True)
class HeatMap:
    """One metric of the samples, temperatures down and top-k across.

    Attributes:
        title: what is measured.
        columns, lines: the values of top-k and of temperature, in words.
        cells: a line of numbers for each of `lines`; None where there is none.
    """

    title: str
    columns: Sequence[str]
    lines: Sequence[str]
    cells: Cells

    @property
    def known(self) -> list[float]:
        """The cells that have a finite number, by which the others are coloured."""
        return [cell for line in self.cells for cell in line if _is_finite(cell)]

    def step(self, value: float | None) -> int:
        """The cell's step on the colour scale between the map's least and greatest."""
        least, greatest = min(self.known, default=0.0), max(self.known, default=0.0)
        if not _is_finite(value) or greatest == least:
            return 0
        way, whole = (min(end - least, LARGEST) for end in (value, greatest))
        return round(way / whole * (shading.STEPS - 1))


def _is_finite(cell: float | None) -> TypeGuard[float]:
    return cell is not None and math.isfinite(cell)


@dataclass(frozen=True)
class SamplingSection:
    """The part of the page on sampling.

    Attributes:
        maps: shown at once.
        more_maps: folded away.
        level: the metrics that no setting changes, in words.
        first: the samples that are shown at once.
        all: every sample, folded away.
        count: how many samples were drawn.
        copy: the longest passage that stands word for word in the training text: which sample's
            it is, in words, and the passage.
    """

    maps: Sequence[HeatMap] = ()
    more_maps: Sequence[HeatMap] = ()
    level: str = ""
    first: Texts = field(default_factory=dict)
    all: Texts = field(default_factory=dict)
    count: int = 0
    copy: tuple[str, str] | None = None


def sampling_section(report: SampleReport) -> SamplingSection | None:
    """Choose what to show; None where nothing was sampled."""
    grid, samples = report.grid, report.samples
    if not grid and not samples:
        return None
    # In their places on the page; those without one after them, in the order of the list.
    metrics = sorted(measured(grid), key=lambda metric: metric.page_place or math.inf)
    maps = {metric: heat_map(grid, metric) for metric in metrics}
    varied = {metric: one for metric, one in maps.items() if len(set(one.known)) > 1}
    level = [one for metric, one in maps.items() if metric not in varied and one.known]
    return SamplingSection(
        maps=[one for metric, one in varied.items() if metric.page_place is not None],
        more_maps=[one for metric, one in varied.items() if metric.page_place is None],
        level="; ".join(f"{one.title}: {one.known[0]:.3g}" for one in level),
        first=by_prompt(_first(samples)),
        all=by_prompt(samples),
        count=len(samples),
        copy=_copy(longest_copy(samples)),
    )


def heat_map(grid: Sequence[SettingMetrics], metric: SampleMetric) -> HeatMap:
    temperatures, top_ks = axes(grid)
    return HeatMap(
        title=metric.page_title or metric.title,
        columns=[top_k_name(top_k) for top_k in top_ks],
        lines=[f"{temperature:g}" for temperature in temperatures],
        cells=cells_of(grid, metric),
    )


def by_prompt(samples: Sequence[SampledText]) -> dict[str, list[tuple[str, MarkedText]]]:
    """Prompt to its different texts, each under all the settings that gave it."""
    prompts = dict.fromkeys(sample.prompt for sample in samples)
    return {
        prompt: [
            (_unbroken(settings), marked(sample))
            for settings, sample in by_text([s for s in samples if s.prompt == prompt])
        ]
        for prompt in prompts
    }


def marked(sample: SampledText) -> list[tuple[bool, str]]:
    """The completion, cut where copying begins and ends."""
    text, pieces, end = sample.completion, [], 0
    for start, stop in sample.copies:
        pieces += [(False, text[end:start]), (True, text[start:stop])]
        end = stop
    return [(copied, piece) for copied, piece in [*pieces, (False, text[end:])] if piece]


def _first(samples: Sequence[SampledText]) -> list[SampledText]:
    """The first prompt at each temperature, with the largest top-k that was tried."""
    if not samples:
        return []
    widest = max((s.top_k for s in samples), key=lambda k: math.inf if k is None else k)
    return [s for s in samples if s.prompt == samples[0].prompt and s.top_k == widest]


def _copy(sample: SampledText | None) -> tuple[str, str] | None:
    if sample is None:
        return None
    words = f"{sample.longest_copy_tokens} tokens, after “{sample.prompt}”, "
    return words + _unbroken(settings_of(sample)), sample.longest_copy


def _unbroken(settings: str) -> str:
    """Settings in words, no line break between a top-k and its number."""
    return settings.replace("top-k ", "top-k\u00a0")
