"""Ladders: which rungs count, what is refused, what is said; and one in a real store."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from pipeline.cli import main
from pipeline.sweep.ladder import Ladder, climb
from pipeline.sweep.ladder_figures import draw_ladder, pictured
from pipeline.sweep.ranking import rank
from pipeline.system.markdown import inline
from tests.sweep.conftest import Lab, working_in
from tests.sweep.test_figures import texts
from tests.sweep.test_ranking import ranked, recorded

SIZES = (1e6, 3e6, 1e7, 3e7, 1e8)
TEXTS = (1e6, 4e6, 1.6e7, 6.4e7)


def loss_of(parameters: float, tokens: float = 1e18) -> float:
    return float(2.0 + 2 * (parameters / 1e6) ** -0.34 + 2 * (tokens / 1e6) ** -0.3)


def run(number: int, parameters: float, tokens: float, epochs: float = 0.5, **given: Any) -> Any:
    random = np.random.default_rng(number)
    loss = given.pop("loss", loss_of(parameters, tokens)) * (1 + 0.001 * random.standard_normal())
    counts = {"parameters": parameters, "tokens_seen": tokens * max(1, epochs)}
    made = recorded(number, loss, **given)
    made.params.setdefault("model.n_embd", str(parameters))
    made.params.setdefault("train.max_steps", str(tokens * max(1, epochs)))
    made.metrics.update({**counts, "eval/epoch": epochs, "best/step": 7.0, **given.get("more", {})})
    return made


def ladder(*runs: Any, **levels: float) -> Ladder:
    found = climb(ranked(*runs), lambda: levels)
    assert found is not None
    return found


def by_size(tokens: float = 1e18, epochs: float = 0.5) -> list[Any]:
    return [run(i, n, tokens, epochs) for i, n in enumerate(SIZES)]


def both() -> list[Any]:
    return [run(i, n, d) for i, (n, d) in enumerate(product(SIZES[:4], TEXTS))]


def test_size_alone_is_one_term() -> None:
    found = ladder(*by_size(), small=2.35)
    assert (found.axes, found.refusal) == (("N",), "")
    said = found.conclusion()
    assert re.match(r"Scaling law: L = E \+ A / N\^alpha, E = [\d.]+ \[", said)
    assert re.search(
        r"To reach small's 2\.350 would take from [\d.]+M to .* parameters: an extrapolation to "
        r"1\.\d times what was measured\.",
        said,
    )


def test_both_are_two_terms_and_compute() -> None:
    found = ladder(*both(), near=3.0, far=2.4, below=1.5)
    assert found.axes == ("N", "D")
    said = found.conclusion()
    assert re.search(
        r"near's 3\.000 would take from .* parameters, .* training tokens, .* FLOPs:", said
    )
    assert re.search(r"For far's 2\.400 nothing is said: the law puts it beyond ten times", said)
    assert re.search(r"For below's 1\.500 nothing is said: the law's E, .* lies above it\.", said)
    law = found.as_json()["law"]["value_low_high"]
    assert law["alpha"][0] == pytest.approx(0.34, rel=0.05)
    assert law["beta"][0] == pytest.approx(0.3, rel=0.05)


def test_what_a_rung_has_reached_is_said() -> None:
    assert "has reached easy's 3.900." in ladder(*by_size(), easy=3.9).conclusion()
    assert "GPT-2 was not measured on these windows" in ladder(*by_size()).conclusion()


def test_of_settings_with_equal_n_and_d_the_lowest_counts() -> None:
    worse = [
        run(9 + i, n, 1e18, loss=5.0, params={"train.learning_rate": "0.1"})
        for i, n in enumerate(SIZES)
    ]
    found = ladder(*by_size(), *worse)
    assert len(found.rungs) == 5
    assert max(rung.mean for rung in found.rungs) < 4.1


@pytest.mark.parametrize(
    ("runs", "refusal"),
    [
        (by_size()[:3], "3 rungs, with different values 3 of parameters; 4 are the fewest"),
        (
            [run(i, 1e6, 4e6, e, loss=6 - e / 10) for i, e in enumerate((1, 2, 4, 8))],
            "reading a text again adds no tokens",
        ),
        (
            [run(i, n, 20 * n) for i, n in enumerate((*SIZES, 3e8))],
            "parameters and tokens grow together",
        ),
        (
            [run(i, n, d) for i, (n, d) in enumerate(product(SIZES[:2], TEXTS))],
            "2 of parameters and 4 of training tokens; a law of both takes 3 of each",
        ),
        (
            [run(i, n, 1e7, params={"model.tie_weights": f"{i % 2}"}) for i, n in enumerate(SIZES)],
            "tie_weights differs",
        ),
        (
            [run(i, n, 1e7, params={"train.init_from": "gpt2-124M"}) for i, n in enumerate(SIZES)],
            "these runs go on from trained weights",
        ),
        ([run(i, n, 1e7, loss=5.5) for i, n in enumerate(SIZES)], "losses fall with parameters"),
        (
            [run(i, n, 1e7, loss=5 + 0.1 * i) for i, n in enumerate(SIZES)],
            "these rungs do not show that losses fall with parameters",
        ),
        (
            [run(i, n, 1e7, loss=5 + 0.3 * abs(i - 2)) for i, n in enumerate(SIZES)],
            "these rungs do not show that losses fall with parameters",
        ),
    ],
)
def test_what_shows_no_law_is_refused(runs: list[Any], refusal: str) -> None:
    found = ladder(*runs, small=3.0)
    assert found.scaling is None
    assert refusal in found.refusal
    assert found.conclusion().startswith("No scaling law: ")
    assert "small" not in found.conclusion()


def test_repeated_text_is_no_new_text() -> None:
    once = [run(i, 1e6, d) for i, d in enumerate(TEXTS)]
    again = [run(8 + i, 1e6, 6.4e7, e, loss=3.0) for i, e in enumerate((2, 4))]
    found = ladder(*once, *again)
    assert found.left_out == {"that read their text again, which is no new text": 2}
    assert len(found.rungs) == 4
    sizes = ladder(*by_size(tokens=1e6, epochs=10))  # of one text: a law of that text
    assert sizes.axes == ("N",)
    assert sizes.scaling is not None
    assert "read their text up to 10 times" in sizes.note()


def test_failed_seeds_and_what_never_learned_do_not_count() -> None:
    runs = by_size()
    runs[0].metrics["best/step"] = 0.0
    found = ladder(
        *runs,
        run(20, 3e6, 1e18, loss=np.nan, params={"seed": "2"}),
        run(21, 2e8, 1e18, loss=50.0),
    )
    assert found.left_out == {
        "of which seeds failed": 1,
        "that never were better than untrained": 1,
        "that are worse than guessing": 1,
    }
    assert [rung.parameters for rung in found.rungs] == [1e7, 3e7, 1e8]


def test_other_sweeps_are_no_ladders() -> None:
    rates = [recorded(i, 6.0, params={"train.learning_rate": str(i)}) for i in range(4)]
    assert climb(ranked(*rates), dict) is None
    sweep = rank(ranked(*by_size()).selection, "best/step")
    assert climb(sweep, dict) is None


@pytest.mark.parametrize("runs", [by_size(), both(), by_size()[:3]])
def test_figures_name_axes_and_levels(tmp_path: Path, runs: list[Any]) -> None:
    found = ladder(*runs, small=3.0)
    pictures = pictured(found, "validation loss")
    assert pictures[0].name == "compute"
    assert len(pictures) == 1 + len(found.axes)
    for one in pictures:
        draw_ladder(one, tmp_path / "one.svg")
        assert {"small 3.00", "validation loss", one.xlabel} <= set(texts(tmp_path / "one.svg"))


def test_a_curve_passes_through_what_the_law_says() -> None:
    found = ladder(*both())
    assert found.scaling is not None
    compute, parameters, tokens = (one.curve for one in pictured(found, "loss"))
    assert compute is not None
    assert parameters is not None
    assert tokens is not None
    assert parameters[1, 0] == pytest.approx(loss_of(1e6, 6.4e7), rel=0.01)
    assert tokens[1, 0] == pytest.approx(loss_of(3e7, 1e6), rel=0.01)
    for x, loss, low, high in compute.T:
        n = np.geomspace(1e5, 1e12, 300)
        best = found.scaling.losses(np.log(np.stack([n, x / 6 / n], 1))).min()
        assert loss == pytest.approx(best, rel=1e-3)
        assert low <= loss <= high


@pytest.mark.usefixtures("working_inside")
def test_a_ladder_in_a_store(lab: Lab, ship: Callable[[], None]) -> None:
    with working_in(lab.folder):
        for layers in (1, 2, 4, 8):
            parameters = layers * 1e6
            for seed in (1, 2):
                counts = {"parameters": parameters, "tokens_seen": 1e6, "eval/epoch": 1.0}
                loss = loss_of(parameters) + 0.002 * seed
                lab.train(f"e{layers}{seed}", [9.0, loss], layers=layers, seed=seed, metrics=counts)
        lab.baseline("124M", 3.0)
        lab.baseline("124M", 2.0, digest="ef" * 18)  # later, and on other windows
        lab.baseline("1558M", 1.0, digest="ef" * 18)
        ship()
    done = CliRunner().invoke(main, ["sweep", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)["ladder"]
    assert found["levels"] == {"GPT-2 small": 3.0}
    assert [len(rung["losses"]) for rung in found["rungs"]] == [2] * 4
    said = CliRunner().invoke(main, ["sweep", "--no-log"]).output
    assert "Rungs of the ladder" in said
    assert found["conclusion"] in said
    page = (lab.folder / "reports/sweep.html").read_text()
    assert found["conclusion"] in html.unescape(page)
    assert page.count('role="img"') == 2 * 4  # against n_layer, curves, compute, parameters
    assert inline(found["conclusion"]) in (lab.folder / "reports/sweep.md").read_text()
