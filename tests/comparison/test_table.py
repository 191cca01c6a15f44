"""The comparison's rows, what it refuses, and the sentence that sums it up."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.comparison.columns import cells, comparison_report
from pipeline.comparison.report import hosts, notes
from pipeline.comparison.table import ComparedModel, Comparison, Estimate, read_comparison
from pipeline.comparison.uncertainty import Interval, Uncertainty
from pipeline.comparison.verdict import MEMORISED, comparison_verdict
from pipeline.errors import UserError
from pipeline.gpt2.sizes import SIZES
from pipeline.numbers import perplexity as perplexity_of
from pipeline.reports import (
    BestEvaluation,
    EvaluationReport,
    LastEvaluation,
    Losses,
    SplitLosses,
    Training,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "comparison"
THE_VERDICT = "b41e41a68f0398a3154ae69e2e4c0e2694e17fe0d66730536837f1b01935b31f"
SCRATCH = ["untrained", "scratch_best", "scratch_last"]

Edit = Callable[..., None]


def reported(nats: float) -> dict[str, Any]:
    """What `evaluate.json` has of weights whose losses are so high."""
    one = {"loss": nats, "perplexity": math.exp(nats), "bits_per_byte": 2.0}
    return {split: {**one, "tokens": 1024, "windows": 4} for split in ("train", "val")}


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN, tmp_path / "reports"))


@pytest.fixture
def edit(reports: Path) -> Edit:
    """Set keys (`val.loss`) of one JSON file."""

    def set_keys(file: str, **keys: Any) -> None:
        content = json.loads((reports / file).read_text())
        for key, value in keys.items():
            *parents, last = key.split("__")
            place = content
            for parent in parents:
                place = place[parent]
            place[last] = value
        (reports / file).write_text(json.dumps(content))

    return set_keys


def compared(reports: Path, *sizes: str, start: str = "scratch") -> Comparison:
    return read_comparison(
        reports / "evaluate.json",
        reports / "train.json",
        reports / "baselines",
        sizes,
        start=start,
    )


def test_rows_are_the_files_numbers_in_their_order(reports: Path) -> None:
    comparison = compared(reports, "1558M", "124M")
    assert list(comparison.models) == [*SCRATCH, "gpt2_124M", "gpt2_1558M"]
    evaluation = json.loads((reports / "evaluate.json").read_text())
    baseline = json.loads((reports / "baselines" / "124M.json").read_text())
    for key, losses, parameters in (
        ("untrained", evaluation["untrained"], 1234567),
        ("scratch_best", evaluation["best"], 1234567),
        ("scratch_last", evaluation, 1234567),
        ("gpt2_124M", baseline, 124439808),
    ):
        row = cells(comparison.models[key])
        assert row["parameters"] == parameters
        assert row["train_loss"] == losses["train"]["loss"]
        assert row["val_loss"] == losses["val"]["loss"]
        assert row["val_perplexity"] == losses["val"]["perplexity"]
        assert row["val_bits_per_byte"] == losses["val"]["bits_per_byte"]
        assert row["published_val_loss"] is None
        assert row["status"] == "measured"


def test_averaged_weights_and_an_ensemble_are_rows(reports: Path, edit: Edit) -> None:
    ensemble = {**reported(6.0), "members": ["a", "b", "c"], "parameters": 99}
    edit("evaluate.json", ema=reported(5.99), ensemble=ensemble)
    comparison = compared(reports, "124M")
    assert list(comparison.models) == [*SCRATCH, "scratch_ema", "ensemble", "gpt2_124M"]
    ema, row = comparison.models["scratch_ema"], comparison.models["ensemble"]
    assert (ema.name, ema.parameters, ema.chosen_here) == ("scratch (averaged)", 1234567, False)
    assert (row.name, row.parameters, row.chosen_here) == ("ensemble of 3", 99, True)
    assert comparison.best == "scratch_ema"
    ensemble = {**ensemble, **reported(1.0)}
    edit("evaluate.json", ema=reported(comparison.evaluation.best.val.loss), ensemble=ensemble)
    assert compared(reports).best == "scratch_best"


def test_an_unavailable_size_is_a_row_in_words(reports: Path) -> None:
    row = cells(compared(reports, "1558M").models["gpt2_1558M"])
    assert row["model"] == "GPT-2 XL (1558M)"
    assert row["status"] == "unavailable: no answer from openaipublic.blob.core.windows.net"
    assert (row["parameters"], row["train_loss"], row["val_loss"]) == (None, None, None)
    assert (row["val_perplexity"], row["val_bits_per_byte"]) == (None, None)


def test_a_size_that_was_not_measured_yet_says_how_it_is(reports: Path) -> None:
    row = compared(reports, "355M").models["gpt2_355M"]
    assert row.status == "unavailable: `dvc repro baseline@355M` measures it"


def test_only_the_sizes_named_are_read(reports: Path) -> None:
    (reports / "baselines" / "124M.json").write_text("left behind and broken")
    assert list(compared(reports, "1558M").models) == [*SCRATCH, "gpt2_1558M"]
    assert list(compared(reports).models) == SCRATCH


def as_the_book(edit: Edit, **changes: Any) -> None:
    """Make both files those of the book's text: 18 and 2 windows of 256."""
    keys = {"corpus_sha256": THE_VERDICT, "context_length": 256, "val__windows": 2} | changes
    for file in ("evaluate.json", "baselines/124M.json"):
        edit(file, **keys)


def test_published_losses_stand_beside_the_books_text(reports: Path, edit: Edit) -> None:
    as_the_book(edit)
    rows = compared(reports, "124M", "355M", "774M", "1558M").models
    published = {key: row.published_val_loss for key, row in rows.items()}
    assert published == dict.fromkeys(rows) | {"gpt2_124M": 3.5596, "gpt2_1558M": 3.1195}
    assert cells(rows["gpt2_124M"])["val_loss"] == 3.5
    assert cells(rows["gpt2_1558M"])["val_loss"] is None


@pytest.mark.parametrize(
    "change", [{"corpus_sha256": "5" * 64}, {"context_length": 128}, {"val__windows": 4}]
)
def test_published_losses_stand_beside_nothing_else(
    reports: Path, edit: Edit, change: dict[str, Any]
) -> None:
    as_the_book(edit, **change)
    rows = compared(reports, "124M", "1558M").models
    assert [row.published_val_loss for row in rows.values()] == [None] * 5


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("corpus_sha256", "6" * 64),
        ("context_length", 16),
        ("train.windows", 19),
        ("train.tokens", 152),
        ("val.windows", 4),
        ("val.tokens", 32),
    ],
)
def test_numbers_measured_on_something_else_are_refused(
    reports: Path, edit: Edit, key: str, value: Any
) -> None:
    edit("baselines/124M.json", **{key.replace(".", "__"): value})
    with pytest.raises(UserError) as error:
        compared(reports, "124M")
    message = str(error.value)
    assert str(reports / "evaluate.json") in message
    assert str(reports / "baselines" / "124M.json") in message
    assert f"{key} is " in message
    assert str(value) in message


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("evaluate.json", {"best": None}, "evaluate.json: best:"),
        ("evaluate.json", {"val__loss": "low"}, "evaluate.json: val.loss:"),
        ("evaluate.json", {"untrained__val__loss": "much"}, "untrained.val.loss:"),
        ("train.json", {"best": {"step": 30, "val_loss": 6.0}}, "train.json: best.epoch:"),
        ("baselines/124M.json", {"val": None}, "124M.json: is measured but lacks val"),
        ("baselines/124M.json", {"status": "maybe"}, "124M.json: status:"),
    ],
)
def test_a_misshapen_file_is_named_with_its_key(
    reports: Path, edit: Edit, file: str, change: dict[str, Any], said: str
) -> None:
    edit(file, **change)
    with pytest.raises(UserError, match="rewrites it") as error:
        compared(reports, "124M")
    assert said in str(error.value)


def test_a_missing_file_is_named(reports: Path) -> None:
    (reports / "evaluate.json").unlink()
    with pytest.raises(UserError, match=r"evaluate\.json: no such file"):
        compared(reports)


def test_completions_keep_the_rows_that_have_any(reports: Path) -> None:
    models = compared(reports, "124M", "1558M").models
    completions = {key: model.completions for key, model in models.items() if model.completions}
    assert list(completions) == ["scratch_best", "gpt2_124M"]
    assert completions["gpt2_124M"] == {"The capital of France is": " Paris.", "Water is": " wet."}


def test_the_host_that_weights_came_from_is_said(reports: Path, edit: Edit) -> None:
    assert hosts(compared(reports, "124M", "1558M")) == []
    edit("baselines/124M.json", host="mirror.example.org")
    comparison = compared(reports, "124M", "1558M")
    (sentence,) = hosts(comparison)
    assert sentence == "The weights of GPT-2 small (124M) came from mirror.example.org."
    assert sentence in notes(comparison)


def test_a_model_that_began_with_other_weights_is_not_called_scratch(reports: Path) -> None:
    names = [row.name for row in compared(reports, start="gpt2-124M").models.values()]
    assert names == ["before training", "from gpt2-124M (best)", "from gpt2-124M (last)"]


def test_json_nests_the_measured_numbers_by_model(reports: Path) -> None:
    content = comparison_report(compared(reports, "124M", "1558M"), "So it is.").model_dump()
    assert content["verdict"] == "So it is."
    assert [row["model"] for row in content["rows"]][-1] == "GPT-2 XL (1558M)"
    assert list(content["models"]) == [*SCRATCH, "gpt2_124M"]
    assert content["models"]["scratch_best"]["val_loss"] == 6.0


ALL = ("124M", "1558M")


@pytest.mark.parametrize(
    ("sizes", "epochs", "changes", "sentence"),
    [
        (
            ALL,
            10,
            {},
            "Ten epochs from scratch reach a validation perplexity of 403, best at epoch 6, and "
            "then memorise; GPT-2 small, 124M, predicts this text with a perplexity of 33 (1558M "
            "unavailable).",
        ),
        (
            ("1558M",),
            40,
            {"evaluate.json": {"train__loss": 2.5}},
            "40 epochs from scratch reach a validation perplexity of 403, best at epoch 6; GPT-2 "
            "could not be measured beside it (1558M unavailable).",
        ),
        (
            ("1558M", "774M", "355M"),
            6,
            {"evaluate.json": {"val__loss": 6.0}, "train.json": {"best__step": 50}},
            "Six epochs from scratch reach a validation perplexity of 403, still falling at the "
            "end; GPT-2 could not be measured beside it (355M, 774M and 1558M unavailable).",
        ),
        (
            (),
            1,
            {"train.json": {"best__epoch": 0.25}},
            "One epoch from scratch reaches a validation perplexity of 403, best at epoch 0.2, "
            "and then memorises; no GPT-2 was asked for (gpt2.sizes is empty).",
        ),
        (
            (),
            4.4999,
            {"evaluate.json": {"val__loss": 6.01}, "train.json": {"best__epoch": 4.2}},
            "4.5 epochs from scratch reach a validation perplexity of 403, best at epoch 4.2; no "
            "GPT-2 was asked for (gpt2.sizes is empty).",
        ),
        (
            (),
            10 / 222,
            {"train.json": {"steps": 10, "best__step": 5, "best__epoch": 5 / 222}},
            "Ten steps from scratch reach a validation perplexity of 403, best at step 5, and then "
            "memorise; no GPT-2 was asked for (gpt2.sizes is empty).",
        ),
        (
            (),
            1 / 222,
            {"train.json": {"steps": 1, "best__step": 1, "best__epoch": 1 / 222}},
            "One step from scratch reaches a validation perplexity of 403, still falling at the "
            "end; no GPT-2 was asked for (gpt2.sizes is empty).",
        ),
        (
            (),
            10,
            {"train.json": {"best__step": 49, "best__epoch": 9.8}},
            "Ten epochs from scratch reach a validation perplexity of 403, best at step 49, and "
            "then memorise; no GPT-2 was asked for (gpt2.sizes is empty).",
        ),
        (
            (),
            10,
            {"evaluate.json": {"best__val__perplexity": math.inf, "val__loss": math.nan}},
            "Ten epochs from scratch reach a validation perplexity of ∞, best at epoch 6; no GPT-2 "
            "was asked for (gpt2.sizes is empty).",
        ),
        (
            (),
            10,
            {"evaluate.json": {"best__val__perplexity": 3e207}},
            "Ten epochs from scratch reach a validation perplexity of 3.0 × 10²⁰⁷, best at epoch "
            "6, and then memorise; no GPT-2 was asked for (gpt2.sizes is empty).",
        ),
        (
            (),
            2,
            {
                "evaluate.json": {
                    "best__val__loss": 10.8,
                    "val__loss": 10.9,
                    "untrained__val__perplexity": 49021.3,
                }
            },
            "Two epochs from scratch never predict the validation text better than the weights "
            "that they began with, whose perplexity is 49,021; no GPT-2 was asked for (gpt2.sizes "
            "is empty).",
        ),
        (
            (),
            10,
            {"evaluate.json": {"val__loss": 4.0, "val__perplexity": 54.6}},
            "Ten epochs from scratch reach a validation perplexity of 55, lowest with the last "
            "weights; no GPT-2 was asked for (gpt2.sizes is empty).",
        ),
        (
            (),
            10,
            {
                "evaluate.json": {
                    "ema": reported(5.5),
                    "ensemble": {**reported(5.0), "members": ["a", "b"], "parameters": 7},
                },
                "train.json": {"best__step": 50},
            },
            "Ten epochs from scratch reach a validation perplexity of 245, lowest with the "
            "averaged weights; an ensemble of 2 reaches 148; no GPT-2 was asked for (gpt2.sizes "
            "is empty).",
        ),
        (
            ("124M",),
            10,
            {"baselines/124M.json": {"parameters": 31_000, "val__perplexity": 9.26}},
            "Ten epochs from scratch reach a validation perplexity of 403, best at epoch 6, and "
            "then memorise; a stand-in for GPT-2 small, 31,000 parameters, predicts this text "
            "with a perplexity of 9.3.",
        ),
    ],
)
def test_the_verdict_says_what_was_measured(
    reports: Path,
    edit: Edit,
    sizes: tuple[str, ...],
    epochs: float,
    changes: dict[str, dict[str, Any]],
    sentence: str,
) -> None:
    for file, keys in changes.items():
        edit(file, **keys)
    assert comparison_verdict(compared(reports, *sizes), epochs) == sentence


LOSS = st.sampled_from([6.1, 6.1004, 6.2, 800.0, math.inf, math.nan]) | st.floats(0, 20)


def losses(nats: float) -> Losses:
    return Losses(
        loss=nats, perplexity=perplexity_of(nats), bits_per_byte=nats, tokens=8, windows=1
    )


def trained_comparison(
    points: list[tuple[float, float]],
    tests: list[float] | None = None,
    every: int = 1,
    steps_per_epoch: int = 1,
    rise: Interval | None = None,
    **gpt2: tuple[float, Interval | None],
) -> Comparison:
    """The comparison after a training.

    Args:
        points: training and validation loss by evaluation.
        tests: the test's, of the untrained, the best and the last weights.
        rise: the interval of how far the last weights' loss lies above the best's.
        gpt2: by size, its loss above that of our best weights, and the interval.
    """
    best = min(range(len(points)), key=lambda i: (not points[i][1] <= 20, points[i][1], i))
    last, steps = len(points) - 1, (len(points) - 1) * every
    of = {
        name: SplitLosses(
            train=losses(points[at][0]),
            val=losses(points[at][1]),
            test=losses(tests[number]) if tests else None,
        )
        for number, (name, at) in enumerate({"untrained": 0, "best": best, "last": last}.items())
    }
    judged = "test" if tests else "val"
    models = {
        key: ComparedModel(key, 1, found.train, found.val, found.test)
        for key, found in zip(SCRATCH, of.values(), strict=True)
    }
    models["scratch_last"] = replace(models["scratch_last"], beside_best=difference(0.0, rise))
    ours = getattr(of["best"], judged).loss
    for name, (above, interval) in gpt2.items():
        size = SIZES[name.removeprefix("_")]
        found = {judged: losses(ours + above)} | ({"val": losses(3.0)} if tests else {})
        models[f"gpt2_{size.name}"] = ComparedModel(
            size.label,
            size.hparams.parameters,
            losses(3.0),
            size=size,
            beside_best=difference(above, interval),
            **found,
        )
    return Comparison(
        models,
        EvaluationReport(
            corpus_sha256="5",
            context_length=8,
            **of["last"].by_split,
            best=of["best"],
            untrained=of["untrained"],
        ),
        Training(
            parameters=1,
            steps=steps,
            tokens_seen=8 * steps,
            best=BestEvaluation(
                step=best * every, epoch=best * every / steps_per_epoch, val_loss=points[best][1]
            ),
            last=LastEvaluation(train_loss=points[last][0], val_loss=points[last][1]),
            overfit=0.0,
        ),
    )


def difference(nats: float, interval: Interval | None) -> Estimate:
    note = None if interval else "too little text"
    return Estimate(
        nats,
        Uncertainty(
            interval=interval, unit="block", units=9, tokens_per_unit=64, method="m", note=note
        ),
    )


@given(
    points=st.lists(st.tuples(LOSS, LOSS), min_size=2, max_size=6),
    tests=st.none() | st.tuples(LOSS, LOSS),
    every=st.integers(1, 9),
    steps_per_epoch=st.integers(1, 30),
    rise=st.none() | st.floats(-1, 1).map(lambda low: (low, low + 0.5)),
)
def test_each_claim_of_the_verdict_is_what_the_numbers_say(
    points: list[tuple[float, float]],
    tests: tuple[float, float] | None,
    every: int,
    steps_per_epoch: int,
    rise: Interval | None,
) -> None:
    """`points` are a training's and a validation's loss by evaluation; `tests` best and last."""
    points[0] = (10.9, 10.8)
    best = min(range(len(points)), key=lambda i: (not points[i][1] <= 20, points[i][1], i))
    last, steps = len(points) - 1, (len(points) - 1) * every
    epochs = steps / steps_per_epoch
    judged = [10.7, *tests] if tests else [10.8, points[best][1], points[last][1]]
    if best == 0:  # the best weights are the untrained ones
        judged[1] = judged[0]
    comparison = trained_comparison(points, judged if tests else None, every, steps_per_epoch, rise)
    said = comparison_verdict(comparison, epochs)
    number, unit = re.match(r"(\S+) (step|epoch)s? from", said).groups()  # type: ignore[union-attr]
    assert number != "No"
    assert (unit == "step") == (epochs < 1)
    improved = judged[1] < judged[0]
    text = "test" if tests else "validation"
    assert ("never predict" in said) == (not improved)
    assert f"the {text} text better" in said or f"a {text} perplexity of " in said
    assert ("still falling at the end" in said) == (improved and best == last)
    place = re.search(r"best at (step|epoch) ([\d.,]+)[,;]", said)
    assert (place is not None) == (improved and best != last)
    assert (", on validation " in said) == (improved and tests is not None)
    if place is not None:
        exact = best * every / (1 if place[1] == "step" else steps_per_epoch)
        assert abs(float(place[2].replace(",", "")) - exact) <= (place[1] == "epoch") * 0.5
        assert float(place[2].replace(",", "")) > 0
    rose = judged[2] - judged[1] >= MEMORISED and (rise is None or rise[0] > 0)
    fell = points[last][0] < points[best][0]
    assert ("memorise" in said) == (improved and best != last and rose and fell)


END = st.integers(-5_000_000, 5_000_000).map(lambda millionths: millionths / 1e6)
ENDS = st.tuples(END, END).map(sorted).map(tuple)


@given(small=st.none() | ENDS, large=st.none() | ENDS, is_test=st.booleans())
def test_what_the_verdict_says_of_gpt2_is_what_the_intervals_say(
    small: Interval | None, large: Interval | None, is_test: bool
) -> None:
    points = [(10.9, 10.8), (2.0, 6.0), (0.5, 6.5)]
    tests = [10.8, 6.1, 6.4] if is_test else None
    intervals = {"_124M": small, "_1558M": large}
    found = {name: (sum(i) / 2 if i else -1.0, i) for name, i in intervals.items()}
    said = comparison_verdict(trained_comparison(points, tests, **found), 2)
    _, _, clause = said.partition("; ")
    assert ("the test text" in clause) == is_test
    assert ("too little text for an interval" in clause) == (None in (small, large))
    first, second = re.split(r",? and GPT-2 XL, 1558M, with ", clause)
    for interval, part in ((small, first), (large, second)):
        low, high = interval or (0.0, 0.0)
        assert ("no difference that this text can show" in part) == (
            interval is not None and low <= 0 <= high
        )
        assert (", its loss lower by" in part) == (high < 0)
        assert (", its loss higher by" in part) == (low > 0)
        if shown_ends := re.search(r" by ([\d.]+) \[([\d.]+), ([\d.]+)\]", part):
            by, near, far = map(float, shown_ends.groups())
            assert 0 < near <= by <= far
            exact = sorted((abs(low), abs(high)))
            assert [near, far] == pytest.approx(exact, rel=0.1, abs=0.005)


@pytest.mark.parametrize(
    ("above", "interval", "said"),
    [
        (-2.29, (-2.48, -2.1), "33, its loss lower by 2.29 [2.10, 2.48]."),
        (0.0044, (0.0021, 0.0067), "457, its loss higher by 0.0044 [0.0021, 0.0067]."),
        (0.01, (-0.02, 0.04), "400, no difference that this text can show."),
        (-2.29, None, "33 (too little text for an interval)."),
    ],
)
def test_the_verdict_says_how_sure_it_is(
    above: float, interval: Interval | None, said: str
) -> None:
    points = [(10.9, 10.8), (2.0, 6.0), (0.5, 6.5)]
    sentence = comparison_verdict(trained_comparison(points, _124M=(above, interval)), 2)
    start, _, rest = sentence.partition("a perplexity of ")
    assert start.endswith("; GPT-2 small, 124M, predicts this text with ")
    assert rest.partition(" ")[2] == said.partition(" ")[2]


def test_a_rise_that_chance_could_make_is_no_memorising() -> None:
    points = [(10.9, 10.8), (2.0, 6.0), (0.5, 6.1)]
    for rise, expected in ((None, True), ((0.01, 0.19), True), ((-0.01, 0.21), False)):
        said = comparison_verdict(trained_comparison(points, rise=rise), 2)
        assert ("and then memorise" in said) == expected


def test_the_verdict_names_the_smallest_and_the_largest(reports: Path, edit: Edit) -> None:
    for size, parameters, perplexity in (("355M", 354823168, 28.1), ("1558M", 1557611200, 22.64)):
        shutil.copy(reports / "baselines/124M.json", reports / f"baselines/{size}.json")
        edit(f"baselines/{size}.json", parameters=parameters, val__perplexity=perplexity)
    sentence = comparison_verdict(compared(reports, "124M", "355M", "1558M"), 10, "gpt2-124M")
    assert sentence.startswith("Ten epochs from gpt2-124M reach")
    assert sentence.endswith(
        "; GPT-2 small, 124M, predicts this text with a perplexity of 33 and GPT-2 XL, 1558M, "
        "with 23."
    )
