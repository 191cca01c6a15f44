"""What the page shows of the sampling grid: the maps that tell something, and a few samples.

A grid of sixteen settings measures ten things on three prompts. The page shows the three measures
that temperature and top-k decide, the first prompt at each temperature, and folds away the rest;
a measure that is the same everywhere is a sentence, and a text that several settings gave is
shown once, with what it copied from the training text marked.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.pages import shading
from pipeline.sampling.markdown import NAMES

FIRST_MAPS = {
    "distinct_2": "Variety: different pairs of tokens, of all pairs",
    "copied": "Copying: tokens in runs of eight and more that stand in the training text, of all",
    "mean_log_prob": "Likelihood: the model's own log-probability, nats a token",
}
AXES = {"temperature", "top_k"}
SETTINGS = AXES | {"top_p", "min_p", "seed"}

Row = Mapping[str, Any]
Pieces = Sequence[tuple[bool, str]]  # of a continuation: whether it is copied, and the text
Texts = Mapping[str, Sequence[tuple[str, Pieces]]]  # prompt to (settings in words, continuation)


@dataclass(frozen=True)
class HeatMap:
    """One measure of the samples, temperatures down and top-k across.

    Attributes:
        title: what is measured.
        columns, lines: the values of top-k and of temperature, in words.
        cells: a line of numbers for each of `lines`; None where there is none.
    """

    title: str
    columns: Sequence[str]
    lines: Sequence[str]
    cells: Sequence[Sequence[float | None]]

    @property
    def known(self) -> list[float]:
        return [cell for line in self.cells for cell in line if cell is not None]

    def step(self, value: float | None) -> int:
        """The cell's step on the colour scale between the map's least and greatest."""
        least, greatest = min(self.known), max(self.known)
        if value is None or greatest == least:
            return 0
        return round((value - least) / (greatest - least) * (shading.STEPS - 1))


@dataclass(frozen=True)
class SamplingSection:
    """The part of the page on sampling.

    Attributes:
        maps: shown at once.
        more_maps: folded away.
        level: the measures that no setting changes, in words.
        first: the samples that are shown at once.
        all: every sample, folded away.
        count: how many samples were drawn.
        copy: the longest passage that stands word for word in the training text: whose it is, in
            words, and the passage.
    """

    maps: Sequence[HeatMap] = ()
    more_maps: Sequence[HeatMap] = ()
    level: str = ""
    first: Texts = field(default_factory=dict)
    all: Texts = field(default_factory=dict)
    count: int = 0
    copy: tuple[str, str] | None = None


def sampling_section(grid: Sequence[Row], samples: Sequence[Row]) -> SamplingSection | None:
    """Choose what to show; None where nothing was sampled.

    Args:
        grid: a row a setting, its measures beside `temperature` and `top_k`.
        samples: a row a sample: `prompt`, `completion`, `temperature`, `top_k`, and what it
            copied: `copies`, spans of characters, `longest_copy` and `longest_copy_tokens`.
    """
    if not grid and not samples:
        return None
    maps = heat_maps(grid)
    varied = {name: one for name, one in maps.items() if len(set(one.known)) > 1}
    level = [f"{one.title}: {one.known[0]:.3g}" for name, one in maps.items() if name not in varied]
    return SamplingSection(
        maps=[one for name, one in varied.items() if name in FIRST_MAPS],
        more_maps=[one for name, one in varied.items() if name not in FIRST_MAPS],
        level="; ".join(level),
        first=by_prompt(_first(samples)),
        all=by_prompt(samples),
        count=len(samples),
        copy=_longest_copy(samples),
    )


def heat_maps(grid: Sequence[Row]) -> dict[str, HeatMap]:
    """A map for each number that the cells of the grid hold, the first ones first."""
    cells = {(cell["temperature"], cell["top_k"]): cell for cell in grid if cell.keys() >= AXES}
    temperatures = list(dict.fromkeys(temperature for temperature, _ in cells))
    top_ks = list(dict.fromkeys(top_k for _, top_k in cells))
    found = measures(cells.values())
    names = [n for n in FIRST_MAPS if n in found] + [n for n in found if n not in FIRST_MAPS]
    return {
        name: HeatMap(
            title=FIRST_MAPS.get(name) or NAMES.get(name) or name.replace("_", " "),
            columns=["all" if top_k is None else str(top_k) for top_k in top_ks],
            lines=[f"{temperature:g}" for temperature in temperatures],
            cells=[[cells.get((t, k), {}).get(name) for k in top_ks] for t in temperatures],
        )
        for name in names
    }


def measures(cells: Collection[Row]) -> list[str]:
    """The keys under which the cells hold numbers, one at least, settings aside."""
    return [
        name
        for name in dict.fromkeys(key for cell in cells for key in cell)
        if name not in SETTINGS
        and all(isinstance(cell.get(name), int | float | None) for cell in cells)
        and any(cell.get(name) is not None for cell in cells)
    ]


def by_prompt(samples: Sequence[Row]) -> dict[str, list[tuple[str, Pieces]]]:
    """Prompt to its different texts, each under all the settings that gave it."""
    found: dict[str, dict[str, list[Row]]] = {}
    for sample in samples:
        texts = found.setdefault(sample["prompt"], {})
        texts.setdefault(sample["completion"], []).append(sample)
    return {
        prompt: [
            ("; ".join(dict.fromkeys(map(_words, same))), pieces(same[0]))
            for same in texts.values()
        ]
        for prompt, texts in found.items()
    }


def pieces(sample: Row) -> list[tuple[bool, str]]:
    """The completion, cut where copying begins and ends."""
    text, cut, end = sample["completion"], [], 0
    for start, stop in sample["copies"]:
        cut += [(False, text[end:start]), (True, text[start:stop])]
        end = stop
    return [(copied, piece) for copied, piece in [*cut, (False, text[end:])] if piece]


def _first(samples: Sequence[Row]) -> list[Row]:
    """The first prompt at each temperature, with as many tokens to choose from as were tried."""
    if not samples:
        return []
    widest = max((s["top_k"] for s in samples), key=lambda k: float("inf") if k is None else k)
    return [s for s in samples if s["prompt"] == samples[0]["prompt"] and s["top_k"] == widest]


def _longest_copy(samples: Sequence[Row]) -> tuple[str, str] | None:
    longest = max(samples, key=lambda sample: sample["longest_copy_tokens"], default=None)
    if longest is None or not longest["longest_copy_tokens"]:
        return None
    words = f"{longest['longest_copy_tokens']} tokens, after “{longest['prompt']}”, "
    return words + _words(longest), longest["longest_copy"]


def _words(sample: Row) -> str:
    if sample["temperature"] == 0 or sample["top_k"] == 1:
        return "greedy"
    words = f"temperature {sample['temperature']:g}"
    return words if sample["top_k"] is None else f"{words}, top-k\u00a0{sample['top_k']}"
