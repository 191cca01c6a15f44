"""Selection, ranking and conclusion over runs as a store returns them."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.sweep.conclusion import conclusion, shown
from pipeline.sweep.figures import curves, panels
from pipeline.sweep.ranking import Sweep, rank
from pipeline.sweep.report import settings_table
from pipeline.sweep.selection import Scope, Selection, select
from pipeline.tracking.mlflow.queries import Recorded
from pipeline.tracking.tags import PARENT

METRIC = "best/val_loss"


def recorded(number: int, loss: float | None, status: str = "FINISHED", **given: Any) -> Recorded:
    """Run `number`, begun that many seconds after the first."""
    tags = {"dvc.exp_name": f"exp{number}", "dvc.baseline": "c0", "corpus_sha256": "ab"}
    params = {"seed": "1", "train.learning_rate": "0.0004"}
    return Recorded(
        run_id=f"id{number}",
        key=f"key{number}",
        name="train",
        stage=given.pop("stage", "train"),
        status=status,
        started=number * 1000,
        ended=number * 1000 + 500,
        params=params | given.pop("params", {}),
        metrics={} if loss is None else {METRIC: loss},
        tags=tags | given.pop("tags", {}),
        data=given.pop("data", {}),
        curve=given.pop("curve", ()),
    )


def chosen(*runs: Recorded, failures: tuple[Recorded, ...] = ()) -> Selection:
    return select(runs, failures, Scope(), lambda commit: {})


def ranked(*runs: Recorded, failures: tuple[Recorded, ...] = ()) -> Sweep:
    return rank(chosen(*runs, failures=failures), METRIC)


def lr(value: str, seed: int = 1) -> dict[str, str]:
    return {"train.learning_rate": value, "seed": str(seed)}


def test_another_split_is_another_text() -> None:
    """Its params are equal, so it would pass for a repeat."""
    lengths = [{"model.context_length": length} for length in ("64", "128")]
    old = recorded(1, 5.0, params=lengths[0], data={"story/val": "a"})
    longer = recorded(2, 6.0, params=lengths[1], data={"story/val": "b"})
    new = recorded(3, 6.1, params=lengths[0], data={"story/train": "x", "story/val": "c"})
    found = chosen(old, longer, new)
    assert [trial.run.run_id for trial in found.trials] == ["id2", "id3"]
    assert (found.other_text, found.repeats) == (1, 0)


@pytest.mark.parametrize("loss", [math.nan, 1.7976931348623157e308, None])
def test_a_run_without_a_number_has_failed(loss: float | None) -> None:
    found = ranked(recorded(1, 6.0), recorded(2, loss, params=lr("0.1")))
    assert [len(setting.trials) for setting in found.settings] == [1]
    (failed,) = found.failed
    assert failed.error.startswith("best/val_loss ")
    assert found.best is not None
    assert found.best.mean == 6.0


def test_losses_on_another_text_are_no_comparison() -> None:
    selection = chosen(recorded(1, 2.0, tags={"corpus_sha256": "cd"}), recorded(2, 6.0))
    assert ([t.run.key for t in selection.trials], selection.other_text) == (["key2"], 1)


def test_the_text_can_be_chosen() -> None:
    story = {"corpus": "story", "corpus_sha256": "cd"}
    runs = recorded(1, 2.0, tags=story), recorded(2, 6.0, tags={"corpus": "other"})
    found = select(runs, (), Scope(where={"corpus": ("story",)}), lambda commit: {})
    assert [t.run.key for t in found.trials] == ["key1"]


def test_an_average_of_the_weights_makes_no_other_setting() -> None:
    decays = {decay: {"train.ema_decay": decay} for decay in ("null", "0.9", "0.99")}
    runs = [recorded(i, 6.0, params=params) for i, params in enumerate(decays.values())]
    for run, loss in zip(runs, (6.5, 6.4, 6.3), strict=True):
        run.metrics["ema/val_loss"] = loss
    found = chosen(*runs)
    assert (len(found.trials), found.repeats, found.averaged) == (1, 2, True)
    assert "--metric ema/val_loss judges the averages." in conclusion(rank(found, METRIC))
    judged = select(runs, (), Scope(), lambda commit: {}, averages=True)
    assert not judged.averaged
    best, *_ = rank(judged, "ema/val_loss").settings
    assert best.values == {"train.ema_decay": "0.99"}


def test_another_commit_is_another_sweep() -> None:
    older = recorded(1, 2.0, tags={"dvc.baseline": "c1"}, params=lr("0.1"))
    assert [t.run.key for t in chosen(older, recorded(2, 6.0)).trials] == ["key2"]


def test_seeds_without_a_result_make_no_lead() -> None:
    """Those that are left are the better ones."""
    losses = {"0.01": (5.0, 5.01, None, math.inf, math.nan), "0.001": (5.5, 5.51, 5.52, 5.53, 5.5)}
    found = ranked(
        *(
            recorded(5 * place + seed, loss, params=lr(rate, seed))
            for place, (rate, scores) in enumerate(losses.items())
            for seed, loss in enumerate(scores)
        )
    )
    assert [setting.failed for setting in found.settings] == [3, 0]
    assert not found.has_lead
    said = conclusion(found)
    assert "is lowest of 2 settings: validation loss 5.005 ± 0.007 over 2 of 5 seeds" in said
    assert "seeds that ended without a result make that no comparison" in said


def test_what_fails_after_training_is_a_remark() -> None:
    failed = {"stage": "sample", "tags": {PARENT: "id1", "error": "RuntimeError: no"}}
    found = ranked(recorded(1, 6.0), failures=(recorded(2, None, "FAILED", **failed),))
    assert found.failed == ()
    assert found.settings[0].trials[0].remarks == ("sample: RuntimeError: no",)


def test_a_running_run_is_not_finished() -> None:
    found = ranked(recorded(1, 6.0), recorded(2, None, "RUNNING", params=lr("0.1")))
    assert [trial.run.key for trial in found.unfinished] == ["key2"]
    assert found.failed == ()


def test_nothing_finished() -> None:
    found = ranked(recorded(1, None, "FAILED"))
    assert conclusion(found) == "None of 1 run has a result. 1 of 1 run failed."
    assert (panels(found), curves(found)) == ([], [])


def seeded(*settings: tuple[float, ...]) -> list[Recorded]:
    """Runs of settings 0.1, 0.2, ... with these losses of seeds 1, 2, ..."""
    pairs = [(i, seed, x) for i, losses in enumerate(settings) for seed, x in enumerate(losses)]
    return [recorded(n, x, params=lr(f"0.{i + 1}", s + 1)) for n, (i, s, x) in enumerate(pairs)]


def test_a_lead_within_the_spread_is_called_so() -> None:
    assert "seeds alone can make as much" in conclusion(ranked(*seeded((6.0, 6.4), (6.1, 6.6))))
    assert "seeds do not show how" in conclusion(ranked(*seeded((6.0, 6.4), (6.1, 6.5))))
    assert "seeds alone" not in conclusion(ranked(*seeded((6.0, 6.4), (9.3, 9.6))))
    assert "one seed does not show" in conclusion(ranked(*seeded((6.0,), (6.1,))))


def test_a_lead_over_all_is_a_claim_with_its_interval() -> None:
    found = ranked(*seeded((6.0, 6.01, 6.02), (6.2, 6.22, 6.2), (6.31, 6.3, 6.33)))
    assert found.has_lead
    assert conclusion(found).startswith(
        "learning_rate 0.1 is best of 3 settings: validation loss 6.010 ± 0.010 over 3 seeds, "
        "lower by 0.197 [0.167, 0.226] than learning_rate 0.2."
    )
    table = settings_table(found)
    assert table.first_is_best
    assert [row[4] for row in table.rows] == ["", "0.197 [0.167, 0.226]", "0.303 [0.262, 0.345]"]


def test_what_is_not_distinguished_is_named_with_the_seeds_that_it_takes() -> None:
    close = (6.0, 6.1, 6.2), (6.1, 6.05, 6.25), (6.05, 6.2, 6.2)
    found = ranked(*seeded(*close, (7.0, 7.05, 7.2)))
    said = conclusion(found)
    assert not found.has_lead
    assert "Nor do seeds distinguish it from learning_rate 0.3." in said
    assert "The lead over 1 other is more than chance." in said
    seeds = re.search(r"is the true one, (\d+) seeds of each, (\d+) more, would show it", said)
    assert seeds is not None
    assert int(seeds[1]) == int(seeds[2]) + 3 == found.settings[1].gap.seeds  # type: ignore[union-attr]
    marks = [row[4].startswith("≈") for row in settings_table(found).rows]
    assert marks == [False, True, True, False]
    assert not settings_table(found).first_is_best


def test_a_setting_with_one_seed_is_never_claimed_to_be_behind() -> None:
    found = ranked(*seeded((6.0, 6.01, 6.02), (6.3, 6.31, 6.33), (9.0,)))
    assert [s.gap is not None and s.gap.is_lead for s in found.settings] == [False, True, False]
    assert "These seeds do not distinguish it from learning_rate 0.3." in conclusion(found)
    assert not ranked(*seeded((5.0,), (6.0, 6.01), (7.0, 7.01))).has_lead


def test_seeds_that_differ_are_two_samples() -> None:
    runs = seeded((6.0, 6.01, 6.02), (6.2, 6.22, 6.2))
    assert ranked(*runs).paired
    other = recorded(9, 6.2, params=lr("0.2", 7))
    assert not ranked(*runs[:-1], other).paired
    assert ranked(*runs[:-1]).settings[1].gap is not None


LEVELS = st.sampled_from([5.9, 6.0, 6.01, 6.02, 6.1, 6.5, 9.0, 40.0, 1e299])


@given(
    settings=st.lists(st.lists(LEVELS, min_size=1, max_size=4), min_size=2, max_size=5),
)
def test_a_lead_is_claimed_where_the_statistics_find_one(settings: list[list[float]]) -> None:
    found = ranked(*seeded(*map(tuple, settings)))
    said = conclusion(found)
    leads = [s.gap is not None and s.gap.is_lead for s in found.settings]
    assert not leads[0]
    assert (" is best of " in said) == all(leads[1:]) == (", lower by " in said)
    assert found.has_lead == all(leads[1:]) == settings_table(found).first_is_best
    table = settings_table(found)
    for setting, lead, row in zip(found.settings, leads, table.rows, strict=True):
        assert row[4].startswith("≈") == (not lead and setting.mean > found.settings[0].mean)
        assert not lead or setting.gap.interval[0] > 0  # type: ignore[index, union-attr]
        assert not lead or len(setting.scores) > 1 < len(found.settings[0].scores)
    (rates,) = panels(found)
    for value, (low, _) in rates.lines[0].intervals.items():
        place = [shown(s.values["train.learning_rate"]) for s in found.settings].index(value)
        assert (low > 0) == leads[place]
    json.dumps(found.as_json(), allow_nan=False)
    assert len(said) < 700


def test_the_edge_of_what_was_tried_is_named() -> None:
    runs = [recorded(i, 7.0 - i, params=lr(f"{10.0**-i}")) for i in range(3)]
    assert "the lowest learning_rate with a result: try lower ones." in conclusion(ranked(*runs))
    lower = recorded(9, None, "FAILED", params=lr("0.0001"))
    assert "lowest learning_rate with a result: lower ones failed." in conclusion(
        ranked(*runs, lower)
    )


def test_equal_losses_have_no_best_among_them() -> None:
    runs = [recorded(i, 6.0, params=lr(f"0.{i}")) for i in (1, 2, 3)]
    assert conclusion(ranked(*runs)) == "All 3 settings come to the same: validation loss 6.000."
    worse = recorded(4, 6.5, params=lr("0.4"))
    assert conclusion(ranked(*runs, worse)) == (
        "3 of 4 settings are lowest, with equal losses: learning_rate 0.1; learning_rate 0.2; "
        "learning_rate 0.3: validation loss 6.000, 0.500 below learning_rate 0.4; one seed does "
        "not show how much of that is chance."
    )
    table = settings_table(ranked(*runs, worse))
    assert [row[0] for row in table.rows] == ["1", "1", "1", "4"]
    assert not table.first_is_best


@given(losses=st.lists(st.sampled_from([6.0, 6.0002, 6.5, 9.0, 1e299]), min_size=1, max_size=5))
def test_each_claim_of_the_conclusion_is_what_the_numbers_say(losses: list[float]) -> None:
    runs = [recorded(i, loss, params=lr(f"0.{i + 1}")) for i, loss in enumerate(losses)]
    said = conclusion(ranked(*runs))
    lowest = [i for i, loss in enumerate(losses) if loss == min(losses)]
    if len(losses) > 1:
        alone = re.match(r"learning_rate 0\.(\d) is lowest of (\d) settings", said)
        assert (alone is not None) == (len(lowest) == 1)
        assert alone is None or (int(alone[1]) - 1, int(alone[2])) == (lowest[0], len(losses))
        assert ("come to the same" in said) == (len(lowest) == len(losses))
        assert ("with equal losses" in said) == (1 < len(lowest) < len(losses))
    assert ("lowest learning_rate" in said) == (len(losses) > 2 and lowest == [0])
    assert ("highest learning_rate" in said) == (len(losses) > 2 and lowest == [len(losses) - 1])
    assert " 0.000 below" not in said
    assert len(said) < 400


def test_perplexities_near_the_largest_float_can_be_ranked() -> None:
    runs = [
        recorded(i, loss, params=lr(rate, seed))
        for i, (rate, seed, loss) in enumerate(
            [("0.1", 1, 9e299), ("0.1", 2, 8e299), ("0.2", 1, 1e305), ("0.2", 2, 7.0)]
        )
    ]
    found = ranked(*runs)
    assert [setting.scores for setting in found.settings] == [(7.0,), (8e299, 9e299)]
    assert "validation loss 7.000, 8.5 × 10²⁹⁹ below learning_rate 0.1" in conclusion(found)


def test_only_seeds_make_one_setting() -> None:
    found = ranked(*(recorded(i, 6.0 + i, params={"seed": str(i)}) for i in range(3)))
    assert found.swept == ()
    assert conclusion(found) == "One setting: validation loss 7.000 ± 1.000 over 3 seeds."


def test_a_panel_for_each_param_with_a_line_for_each_value_of_the_others() -> None:
    runs = [
        recorded(4 * i + j, 6.0 + i + j, params=lr(rate) | {"model.init": init})
        for i, rate in enumerate(("0.1", "0.001"))
        for j, init in enumerate(("pytorch", "gpt2"))
    ]
    rates, inits = panels(ranked(*runs))
    assert (rates.param, inits.param) == ("learning_rate", "init")
    assert [line.label for line in rates.lines] == ["init pytorch", "init gpt2"]
    assert rates.lines[0].scores == {"0.1": (6.0,), "0.001": (7.0,)}
