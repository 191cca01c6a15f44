"""What the page chooses of the sampling grid."""

from __future__ import annotations

from typing import Any

from pipeline.reports import SampleReport
from pipeline.sampling.section import HeatMap, marked, sampling_section

TOP_KS = [1, 25, None]
GRID = [
    {
        "temperature": temperature,
        "top_k": top_k,
        "distinct_1": temperature,
        "distinct_2": temperature / 2,
        "copied": 0.5 if top_k == 1 else 0.25,
        "mean_log_prob": None,
        "length": 50.0,
    }
    for temperature in (0.0, 1.0)
    for top_k in TOP_KS
]


def sample(prompt: str, temperature: float, top_k: int | None) -> dict[str, Any]:
    greedy = temperature == 0 or top_k == 1
    text = f"{prompt} again" if greedy else f"{prompt} {temperature:g} {top_k}"
    return {
        "prompt": prompt,
        "completion": text,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": None,
        "min_p": None,
        "seed": 1,
        "tokens": 12,
        "finish_reason": "length",
        "mean_log_prob": -1.0,
        "copied": 0.75 * greedy,
        "copies": [[len(prompt) + 1, len(text)]] * greedy,
        "longest_copy": "again" * greedy,
        "longest_copy_tokens": 9 * greedy,
        "longest_copy_position": 3 if greedy else None,
    }


REPORT = SampleReport.model_validate(
    {
        "grid": GRID,
        "samples": [sample(p, t, k) for t in (0.0, 1.0) for k in TOP_KS for p in ("one", "two")],
    }
)


def test_the_maps_that_tell_most_come_first_and_level_ones_are_words() -> None:
    section = sampling_section(REPORT)
    assert section is not None
    assert [m.title.split(":")[0] for m in section.maps] == ["Variety", "Copying"]
    assert [m.title for m in section.more_maps] == ["distinct-1"]
    assert section.level == "length, tokens: 50"
    variety = section.maps[0]
    assert (variety.lines, variety.columns) == (["0", "1"], ["1", "25", "all"])
    assert [variety.step(cell) for cell in (0.0, 0.5, None)] == [0, 10, 0]


def test_equal_texts_stand_once_under_all_their_settings() -> None:
    section = sampling_section(REPORT)
    assert section is not None
    assert section.count == 12
    assert section.all["two"] == [
        ("greedy", [(False, "two "), (True, "again")]),
        ("temperature 1, top-k\u00a025", [(False, "two 1 25")]),
        ("temperature 1", [(False, "two 1 None")]),
    ]
    assert [words for words, _ in section.first["one"]] == ["greedy", "temperature 1"]


def test_a_text_is_cut_where_copying_begins_and_ends() -> None:
    some = REPORT.samples[0]
    cut = some.model_copy(update={"completion": "It was a night.", "copies": ((0, 2), (8, 15))})
    assert marked(cut) == [(True, "It"), (False, " was a"), (True, " night.")]
    assert marked(some.model_copy(update={"completion": "", "copies": ()})) == []


def test_the_longest_copied_passage_is_shown_where_there_is_one() -> None:
    section = sampling_section(REPORT)
    assert section is not None
    assert section.copy == ("9 tokens, after “one”, greedy", "again")
    drawn = tuple(sample for sample in REPORT.samples if not sample.longest_copy_tokens)
    section = sampling_section(REPORT.model_copy(update={"samples": drawn}))
    assert section is not None
    assert section.copy is None


def test_nothing_sampled_is_no_section() -> None:
    assert sampling_section(SampleReport()) is None


def test_a_cell_that_is_no_number_colours_nothing() -> None:
    inf, nan = float("inf"), float("nan")
    cells = [[0.0, 1.0, inf], [-inf, nan, None]]
    heat_map = HeatMap("copied", columns=["1", "2", "all"], lines=["0", "1"], cells=cells)
    assert heat_map.known == [0.0, 1.0]
    assert [heat_map.step(cell) for line in cells for cell in line][2:] == [0, 0, 0, 0]
    assert heat_map.step(1.0) > heat_map.step(0.5) > heat_map.step(0.0) == 0


def test_the_ends_of_the_scale_may_be_as_far_apart_as_numbers_go() -> None:
    for low, high in ((-1.7e308, 1.7e308), (0.0, 5e-324)):
        heat_map = HeatMap("length", columns=["1", "2"], lines=["0"], cells=[[low, high]])
        assert heat_map.step(high) > heat_map.step(low) == 0


def test_a_metric_without_a_number_is_left_out() -> None:
    grid = [{**line, "length": float("inf")} for line in GRID]
    section = sampling_section(SampleReport.model_validate({"grid": grid, "samples": []}))
    assert section is not None
    shown = [one.title for one in (*section.maps, *section.more_maps)]
    assert any(title.startswith("Copying") for title in shown)
    assert "length, tokens" not in shown
