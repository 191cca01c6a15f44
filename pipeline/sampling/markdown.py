"""Samples and their measures as Markdown, and as the numbers that the figures draw.

Everything comes from `reports/samples.json` as it was written, so the page can be made again
without a model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.sampling.figures import next_token_bars, sampling_heat_maps

Samples = Mapping[str, Any]  # `reports/samples.json`

NAMES = {
    "distinct_1": "distinct-1",
    "distinct_2": "distinct-2",
    "distinct_3": "distinct-3",
    "repetition": "repetition",
    "mean_log_prob": "log-probability, nats a token",
    "length": "length, tokens",
    "ended": "reached end-of-text",
    "copied": "copied from the training text",
    "longest_copy": "longest copy, tokens",
}
HEAT_MAPS = (
    "distinct_2",
    "repetition",
    "mean_log_prob",
    "copied",
    "longest_copy",
    "length",
)


def draw(samples: Samples, grid: Path, next_token: Path) -> None:
    """Draw the heat maps at `grid` and the next token's distribution at `next_token`."""
    cells = {(cell["temperature"], cell["top_k"]): cell for cell in samples["grid"]}
    temperatures = list(dict.fromkeys(temperature for temperature, _ in cells))
    top_ks = list(dict.fromkeys(top_k for _, top_k in cells))
    measures = {
        NAMES[name]: [[cells[t, k][name] for k in top_ks] for t in temperatures]
        for name in HEAT_MAPS
        if any(cell[name] is not None for cell in cells.values())
    }
    sampling_heat_maps(measures, grid, temperatures=temperatures, top_ks=top_ks)
    _draw_next_token(samples, next_token)


def _draw_next_token(samples: Samples, path: Path) -> None:
    shapes = samples["next_token"]
    by_temperature = [s for s in shapes if s["filter"] == "temperature"]
    by_top_k = [s for s in shapes if s["filter"] == "top_k"]
    warmth = by_top_k[0]["temperature"]
    next_token_bars(
        shapes[0]["tokens"],
        {
            "by temperature, every token kept": {
                f"{s['temperature']:g}": [*s["probabilities"], s["others"]] for s in by_temperature
            },
            f"by top-k, at temperature {warmth:g}": {
                _top_k(s["top_k"]): [*s["probabilities"], s["others"]] for s in by_top_k
            },
        },
        path,
        title=f"The next token after “{_on_one_line(samples['prompts'][0])}”",
    )


def markdown(samples: Samples, grid: str, next_token: str) -> str:
    """The measures as a table, the longest copy, the figures by name, and every sample."""
    parts = [
        "# Samples",
        _table(samples["grid"]),
        _longest_copy(samples["samples"]),
        f"![What temperature and top-k do to samples]({grid})",
        f"![The next token's distribution]({next_token})",
    ]
    for prompt in samples["prompts"]:
        parts.append(f"## {_on_one_line(prompt)}")
        parts += _of_prompt([s for s in samples["samples"] if s["prompt"] == prompt])
    return "\n\n".join(parts) + "\n"


def _table(cells: Sequence[Mapping[str, Any]]) -> str:
    names = [name for name in NAMES if any(cell[name] is not None for cell in cells)]
    lines = [["temperature", "top-k", *(NAMES[name] for name in names)]]
    lines.append(["---:"] * len(lines[0]))
    for cell in cells:
        numbers = ["" if cell[name] is None else f"{cell[name]:.3g}" for name in names]
        lines.append([f"{cell['temperature']:g}", _top_k(cell["top_k"]), *numbers])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _longest_copy(rows: Sequence[Mapping[str, Any]]) -> str:
    longest = max(rows, key=lambda row: row["longest_copy_tokens"])
    if not longest["longest_copy_tokens"]:
        return "No sample shares a run of eight tokens or more with the training text."
    return (
        f"The longest passage that stands word for word in the training text, "
        f"{longest['longest_copy_tokens']} tokens, from “{_on_one_line(longest['prompt'])}” at "
        f"{_settings(longest)}:\n\n{_fenced(longest['longest_copy'])}"
    )


def _of_prompt(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each different completion once, under all the settings that gave it."""
    by_text: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_text.setdefault(row["completion"], []).append(row)
    parts = []
    for text, same in by_text.items():
        row = same[0]
        settings = "; ".join(dict.fromkeys(_settings(row) for row in same))
        remark = f"{row['tokens']} tokens, log-probability {row['mean_log_prob']:.2f}"
        if row["longest_copy_tokens"]:
            remark += (
                f", {row['copied']:.0%} copied, {row['longest_copy_tokens']} tokens in a row: "
                f"“{_on_one_line(row['longest_copy'])}”"
            )
        parts.append(f"**{settings}** ({remark})")
        parts.append(_fenced(text))
    return parts


def _settings(row: Mapping[str, Any]) -> str:
    if row["temperature"] == 0 or row["top_k"] == 1:
        return "greedy"
    words = f"temperature {row['temperature']:g}"
    return words if row["top_k"] is None else f"{words}, top-k {row['top_k']}"


def _top_k(top_k: int | None) -> str:
    return "all" if top_k is None else str(top_k)


def _fenced(text: str) -> str:
    """A block that shows the text as it is, whatever marks stand in it."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}text\n{text}\n{fence}"


def _on_one_line(text: str) -> str:
    return " ".join(text.split())
