"""The sampling figures and Markdown: the same bytes for the same numbers, everything shown."""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib as mpl
import pytest

from pipeline.reports import FullSampleReport
from pipeline.sampling.figures import next_token_bars, sampling_heat_maps
from pipeline.sampling.markdown import draw, markdown

METRICS = {
    "distinct_1": 0.5,
    "distinct_2": 0.7,
    "distinct_3": None,
    "repetition": 0.1,
    "mean_log_prob": -2.5,
    "gpt2_perplexity": None,
    "length": 50.0,
    "ended": 0.0,
    "copied": 0.75,
    "longest_copy": 12,
}


def sample(prompt: str, temperature: float, top_k: int | None, text: str, copy: str = "") -> dict:
    return {
        "prompt": prompt,
        "temperature": temperature,
        "top_k": top_k,
        "seed": 1,
        "completion": text,
        "top_p": None,
        "min_p": None,
        "tokens": 4,
        "finish_reason": "length",
        "mean_log_prob": -2.0,
        "copied": 0.9 if copy else 0.0,
        "copies": [[0, len(copy)]] if copy else [],
        "longest_copy": copy,
        "longest_copy_tokens": len(copy.split()),
        "longest_copy_position": 5 if copy else None,
    }


def shape(filter_: str, temperature: float, top_k: int | None) -> dict:
    settings = {"filter": filter_, "temperature": temperature, "top_k": top_k}
    return {**settings, "tokens": [" the", "$5"], "probabilities": [0.6, 0.3], "others": 0.1}


@pytest.fixture
def report() -> FullSampleReport:
    chosen = {"temperature": 1.4, "top_k": 25, "top_p": None, "min_p": None, "seed": 1}
    return FullSampleReport.model_validate(
        {
            "prompts": ["He said", "A\nline"],
            "chosen": {**chosen, **METRICS},
            "samples": [
                sample("He said", 1.4, 25, " **bold** and ```fenced```"),
                sample("He said", 0.0, 1, " that he was not.", " that he was"),
                sample("He said", 0.0, None, " that he was not.", " that he was"),
                sample("A\nline", 1.0, None, " of text"),
            ],
            "grid": [
                {"temperature": t, "top_k": k, **METRICS, "distinct_2": 0.1 * t}
                for t in (0.0, 1.4)
                for k in (1, None)
            ],
            "next_token": [shape("temperature", 1.0, None), shape("top_k", 1.4, 1)],
        }
    )


def test_equal_numbers_give_equal_bytes(tmp_path: Path, report: FullSampleReport) -> None:
    draw(report, tmp_path / "grid.png", tmp_path / "next.png")
    with mpl.rc_context({"font.size": 20}):
        draw(report, tmp_path / "grid2.png", tmp_path / "next2.png")
    for name in ("grid", "next"):
        data = (tmp_path / f"{name}.png").read_bytes()
        assert data.startswith(b"\x89PNG")
        assert data == (tmp_path / f"{name}2.png").read_bytes()


@pytest.mark.filterwarnings("error")
def test_a_heat_map_says_what_has_no_colour(tmp_path: Path) -> None:
    path = tmp_path / "grid.svg"
    maps = {"this": [[math.inf, math.nan], [1.5e305, 2.0]], "that": [[math.inf] * 2] * 2}
    sampling_heat_maps(maps, path, temperatures=[0.0, 1.4], top_ks=[25, None])
    svg = path.read_text()
    for text in ("∞", "NaN", "1.5 × 10³⁰⁵", "2"):
        assert f">{text}<" in svg, text


def test_a_heat_map_says_every_number_and_setting(tmp_path: Path) -> None:
    path = tmp_path / "grid.svg"
    cells = [[0.125, None], [123.4, -2.0]]
    maps = {"this": cells, "that": [[None, None], [None, None]]}
    sampling_heat_maps(maps, path, temperatures=[0.0, 1.4], top_ks=[25, None])
    svg = path.read_text()
    for text in ("this", "that", "0.125", "123", "-2", "1.4", "25", "all"):
        assert f">{text}<" in svg, text
    assert "nan" not in svg


def test_bars_show_tokens_with_their_blanks(tmp_path: Path) -> None:
    path = tmp_path / "next.svg"
    groups = {"by temperature": {"0": [1.0, 0.0, 0.0, 0.0], "1": [0.5, 0.3, 0.1, 0.1]}}
    next_token_bars([" the", "\n", "$x$"], groups, path, title="After")
    svg = path.read_text()
    for text in ("␣the", "↵", "$x$", "all others", "by temperature"):
        assert text in svg


def test_the_page_shows_each_text_once_with_what_it_copied(report: FullSampleReport) -> None:
    page = markdown(report, "grid.png", "next.png")
    assert page.count("that he was not.") == 1
    assert "**greedy** (4 tokens, log-probability -2.00, 90% copied, 3" in page
    assert "3 tokens, from “He said” at greedy:\n\n```text\n that he was\n```" in page
    assert "````text\n **bold** and ```fenced```\n````" in page
    assert "## A↵ line" in page
    assert "| 1.4 | all | 0.5 | 0.14 | 0.1 | -2.5 | 50 | 0 | 0.75 | 12 |" in page
    assert "GPT-2 small" not in page  # no cell has it
    assert "![What temperature and top-k do to samples](grid.png)" in page


def test_the_page_says_when_nothing_is_copied(report: FullSampleReport) -> None:
    drawn = tuple(s for s in report.samples if not s.longest_copy)
    page = markdown(report.model_copy(update={"samples": drawn}), "a", "b")
    assert "No sample shares a run of eight tokens" in page
