"""What the page says of puzzling numbers: an example of each sentence, and each claim checked."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.comparison.page import ComparisonPage, render_html, render_markdown
from pipeline.comparison.remarks import (
    COSTLY,
    FASTER,
    FEW_CHARACTERS,
    FEW_TOKENS,
    FLAT,
    KNOWN,
    LITTLE,
    LOW_RATE,
    PLATEAU,
    PUZZLING,
    RISEN,
    RunNumbers,
    remarks,
)
from pipeline.numbers import gap, perplexity
from pipeline.params import Params
from pipeline.reports import (
    BestEvaluation,
    EvaluationReport,
    HistoryRow,
    LastEvaluation,
    Losses,
    SplitLosses,
    StepLosses,
    Training,
)
from pipeline.training.schedule import learning_rate

CONTEXT = 256
EVERY = 10  # steps between two evaluations
FALLING = ((10.9, 10.8), (7.0, 7.1), (6.0, 6.2), (5.0, 5.9))  # with nothing to explain


def losses(loss: float, windows: int) -> Losses:
    tokens = windows * CONTEXT
    return Losses(
        loss=loss, perplexity=perplexity(loss), bits_per_byte=loss, tokens=tokens, windows=windows
    )


def run(
    history: Sequence[tuple[float, float]] = FALLING,
    *,
    last: tuple[float, float] = (5.1, 5.9),
    best: tuple[float, float] = (5.1, 5.9),
    windows: tuple[int, int] = (90, 20),
    looked_at: tuple[int, int] = (2, 20),
    measured: tuple[int, int] | None = None,
    steps: StepLosses | None = None,
    by_frequency: float = 6.4,
    characters: float | None = 4.0,
    model: dict[str, Any] | None = None,
    **train: Any,
) -> RunNumbers:
    """`history`, `last` and `best` are a training's losses and a validation's, in that order."""
    sections = {"model": {"dropout": 0.0, **(model or {})}, "train": train}
    params = Params.model_validate(sections)
    total = (len(history) - 1) * EVERY
    rows = [
        HistoryRow(
            step=i * EVERY,
            epoch=i * EVERY / 45,
            tokens_seen=i * EVERY * 512,
            train_loss=train_loss,
            val_loss=val_loss,
            learning_rate=learning_rate(i * EVERY, total, params.train),
        )
        for i, (train_loss, val_loss) in enumerate(history)
    ]
    counts = measured or windows
    splits = [
        SplitLosses(train=losses(pair[0], counts[0]), val=losses(pair[1], counts[1]))
        for pair in (last, best, history[0])
    ]
    evaluation = EvaluationReport(
        corpus_sha256="5",
        context_length=CONTEXT,
        train=splits[0].train,
        val=splits[0].val,
        best=splits[1],
        untrained=splits[2],
    )
    lowest = min(rows, key=lambda row: row.val_loss)
    training = Training(
        parameters=1,
        steps=total,
        tokens_seen=rows[-1].tokens_seen,
        best=BestEvaluation(step=lowest.step, epoch=lowest.epoch, val_loss=lowest.val_loss),
        last=LastEvaluation(train_loss=rows[-1].train_loss, val_loss=rows[-1].val_loss),
        overfit=0.0,
        step_losses=steps,
    )
    return RunNumbers(
        params,
        evaluation,
        training,
        rows,
        windows=dict(zip(("train", "val"), windows, strict=True)),
        looked_at=dict(zip(("train", "val"), looked_at, strict=True)),
        by_frequency=by_frequency,
        characters_per_token=characters,
    )


def test_a_run_that_puzzles_nobody_has_no_remarks() -> None:
    assert remarks(run()) == []


EXAMPLES = {
    "few tokens": (
        run(windows=(17, 2), looked_at=(2, 2)),
        "The validation losses are of 2 windows, 512 tokens: one token that costs a model 10 nats "
        "more raises its loss by 0.020. A longer text, or a lower split.train_fraction, gives "
        "more.",
    ),
    "few windows measured": (
        run(measured=(4, 1)),
        "The validation losses are of 1 window, 256 tokens: one token that costs a model 10 nats "
        "more raises its loss by 0.039. evaluate.windows: null measures all.",
    ),
    "few windows looked at": (
        run(looked_at=(2, 4)),
        "The validation curve, and with it the choice of the best weights, is of 4 of 20 "
        "validation windows, 1,024 tokens: one token that costs 10 nats more raises it by 0.010. "
        "A higher train.eval_windows looks at more.",
    ),
    "an easier validation text": (
        run((*FALLING, (5.0, 4.8)), last=(5.1, 4.8)),
        "With the last weights the training text takes 5.100 nats per token and the validation "
        "text 4.800, over 90 and 20 windows and without dropout in either: this validation text "
        "is the easier one to predict.",
    ),
    "other windows": (
        run((*FALLING, (5.5, 5.4)), last=(5.1, 5.5), looked_at=(2, 10)),
        "The curves end with a training loss of 5.500 above a validation loss of 5.400, as they "
        "look at 2 of 90 training windows and 10 of 20 for validation. Over 90 and 20 it is 5.100 "
        "and 5.500.",
    ),
    "dropout": (
        run(model={"dropout": 0.5}, steps=StepLosses(steps=10, mean=6.1)),
        "MLflow's train/loss averages 6.100 over the last 10 steps, above the validation loss of "
        "5.900, as each step measures its own batch with dropout 0.5. Without it the training "
        "loss was 6.000 at step 20 and 5.000 at the end, 5.100 over 90 windows.",
    ),
    "before the update": (
        run(steps=StepLosses(steps=20, mean=6.1)),
        "MLflow's train/loss averages 6.100 over the last 20 steps, above the validation loss of "
        "5.900, as each step measures its own batch before the update that it leads to; the "
        "training loss fell from 7.000 at step 10 to 5.000.",
    ),
    "divergence": (
        run(((10.9, 10.8), (40.0, 41.0), (12.0, 12.1)), last=(12.0, 12.1), best=(10.9, 10.8)),
        "The training loss was 40.000 at step 10, where training began with 10.900, and 12.000 at "
        "the end. At a learning rate of 0.0004 the training diverged: lower train.learning_rate, "
        "or set train.grad_clip or train.warmup_steps.",
    ),
    "NaN": (
        run(((10.9, 10.8), (math.nan, 41.0)), last=(math.nan, math.nan), best=(10.9, 10.8)),
        "The training loss was NaN at step 10, where training began with 10.900. At a learning "
        "rate of 0.0004 the training diverged: lower train.learning_rate, or set train.grad_clip "
        "or train.warmup_steps.",
    ),
    "too large at first": (
        run(((10.9, 10.8), (14.25, 14.0), *FALLING[1:])),
        "The training loss was 14.250 at step 10, where training began with 10.900, and 5.000 at "
        "the end. At a learning rate of 0.0004 the first steps were too large: lower "
        "train.learning_rate, or set train.grad_clip or train.warmup_steps.",
    ),
    "a learning rate that is too small": (
        run(
            ((10.9, 10.8), (10.85, 10.8), (10.8, 10.8)),
            last=(10.8, 10.8),
            best=(10.8, 10.8),
            learning_rate=1e-6,
        ),
        "The training loss fell at each of 2 evaluations, and by 0.100 only, from 10.900 to "
        "10.800: 20 steps at train.learning_rate 1e-06 move the weights too little. Raise it, or "
        "train longer.",
    ),
    "frequency": (
        run(by_frequency=5.8),
        "The best validation loss, 5.900, is not below 5.800, which predicting each token by how "
        "often it stands in the training text takes: there, the model is no better than a count of "
        "tokens.",
    ),
    "frequency, and flat": (
        run(
            ((10.9, 10.8), (6.62, 6.7), (6.6, 6.7), (6.61, 6.7)),
            last=(6.6, 6.7),
            best=(6.6, 6.7),
        ),
        "The best validation loss, 6.700, is not below 6.400, which predicting each token by how "
        "often it stands in the training text takes: there, the model is no better than a count of "
        "tokens. The training loss has stayed between 6.600 and 6.620 "
        "since step 10.",
    ),
    "warm-up": (
        run(warmup_steps=200),
        "The learning rate rose to the end and never reached 0.0004: train.warmup_steps is 200, "
        "and the training took 30 steps.",
    ),
    "few characters": (
        run(characters=0.512),
        "GPT-2's tokens were learnt from English, where one holds about four characters. Here it "
        "holds 0.51, since characters are cut into several tokens, each shown as its bytes, such "
        "as <E9 81>. So a window holds less text, and losses and perplexities per token cannot be "
        "compared with those on an English text; bits per byte can.",
    ),
    "few characters of a byte each": (
        run(characters=1.2),
        "GPT-2's tokens were learnt from English, where one holds about four characters. Here it "
        "holds 1.20. So a window holds less text, and losses and perplexities per token cannot be "
        "compared with those on an English text; bits per byte can.",
    ),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_remark_is_made_where_its_cause_is(name: str) -> None:
    numbers, sentence = EXAMPLES[name]
    assert remarks(numbers) == [sentence]


RISEN_TWICE = ((10.9, 10.8), (40.0, 41.0), (12.0, 12.1))
STEPS = StepLosses(steps=10, mean=12.5)
LONG = [(10.9 - i / 4, 10.8 - i / 5) for i in range(35)]  # falls to the end, and there too

NOT_SAID = {
    "a loss that rose in the windows looked at alone": (
        run(RISEN_TWICE, last=(5.1, 5.9), best=(5.1, 5.9)),
        "where training began",
    ),
    "fine-tuning whose loss rose in between": (
        run(((3.0, 3.1), (3.3, 3.1), (2.9, 3.0)), last=(2.9, 3.0), init_from="gpt2-124M"),
        "where training began",
    ),
    "steps of a training that diverged": (
        run(((10.9, 10.8), (40.0, 41.0), (12.0, 12.1)), last=(12.0, 12.1), steps=STEPS),
        "train/loss",
    ),
    "steps where the training text is harder without dropout too": (
        run(((10.9, 10.8), (8.0, 7.0), (7.0, 6.0)), last=(7.0, 6.0), steps=STEPS),
        "train/loss",
    ),
    "dropout where the weights were worse before": (
        run(model={"dropout": 0.1}, steps=StepLosses(steps=20, mean=6.1)),
        "Without it",
    ),
    "a plateau of the last steps alone": (
        run([*LONG, (2.4, 7.0), (2.39, 7.0), (2.38, 7.0)], last=(2.4, 7.0), best=(2.4, 7.0)),
        "has stayed",
    ),
    "an end that is as steep as before": (
        run([*LONG[:17], *[(6.9 - i / 100, 7) for i in range(8)]], schedule="cosine"),
        "flat end",
    ),
    "a warm-up that ends with the last step but one": (run(warmup_steps=29), "never reached"),
}


@pytest.mark.parametrize("name", NOT_SAID)
def test_a_remark_is_not_made_without_its_cause(name: str) -> None:
    numbers, words = NOT_SAID[name]
    assert words not in " ".join(remarks(numbers))


def test_a_warm_up_as_long_as_the_training_never_ends() -> None:
    assert "never reached 0.0004" in " ".join(remarks(run(warmup_steps=30)))


def test_a_flat_end_at_a_low_rate_is_the_schedules() -> None:
    falling = [(10.9 - i / 5, 10.8 - i / 4) for i in range(17)]
    flat = [(5.9 - i / 100, 5.95) for i in range(5)]
    numbers = run([*falling, *flat], schedule="cosine")
    assert remarks(numbers) == [
        "From step 170 on the training loss changes by 0.040 nats, after a fall of 2.400 since "
        "step 130. From there on train.schedule cosine has the learning rate, 0.0004 at its peak, "
        "at 3.5e-05 and less: a flat end is no sign that nothing is left to learn."
    ]
    assert remarks(replace(numbers, params=Params())) == []  # constant


LOSS = st.sampled_from([6.1, 6.1004, 6.2, 10.95, 800.0, math.inf, math.nan]) | st.floats(0, 20)
PAIR = st.tuples(LOSS, LOSS)
FINITE = st.floats(0.5, 12)
SLOWLY = st.lists(st.floats(0, 0.06), min_size=1, max_size=12).map(
    lambda falls: [(10.9, 10.8), *((10.9 - sum(falls[: i + 1]),) * 2 for i in range(len(falls)))]
)
LEVEL = st.tuples(FINITE, st.lists(st.floats(0, 0.12), min_size=3, max_size=12)).map(
    lambda drawn: [(10.9, 10.8), *((drawn[0] + more, drawn[0]) for more in drawn[1])]
)
COOLING = st.tuples(
    st.sampled_from([0.4, 2.0]), st.lists(st.floats(0, 0.12), min_size=3, max_size=6)
).map(
    lambda drawn: [
        *((10.9 - i / 2, 10.8 - i / 3) for i in range(17)),
        *((drawn[0] + more, drawn[0] + more) for more in drawn[1]),
    ]
)
WINDOWS = st.tuples(st.integers(1, 99), st.integers(1, 30))


@st.composite
def runs(draw: st.DrawFn) -> RunNumbers:
    free = st.lists(PAIR, min_size=1, max_size=8).map(lambda pairs: [(10.9, 10.8), *pairs])
    history = draw(COOLING | SLOWLY | LEVEL | free)
    windows = draw(WINDOWS)
    some = [st.integers(1, count) for count in windows]
    steps = (len(history) - 1) * EVERY
    mean = st.builds(StepLosses, steps=st.integers(1, steps), mean=FINITE)
    return run(
        history,
        last=draw(st.just(history[-1]) | PAIR),
        best=draw(PAIR),
        windows=windows,
        looked_at=draw(st.tuples(*some)),
        measured=draw(st.tuples(*some) | st.none()),
        steps=draw(mean | st.none()),
        by_frequency=draw(FINITE),
        characters=draw(st.floats(0.3, 5) | st.none()),
        model={"dropout": draw(st.sampled_from([0.0, 0.1]))},
        schedule=draw(st.sampled_from(["cosine", "constant", "wsd"])),
        warmup_steps=draw(st.sampled_from([0, 5, 30, 500])),
        init_from=draw(st.sampled_from(["scratch", "gpt2-124M"])),
    )


def number(text: str) -> float:
    return {"∞": math.inf, "NaN": math.nan}.get(text, 0) or float(text.replace(",", ""))


def near(text: str, value: float) -> bool:
    found = number(text)
    return found == pytest.approx(value, abs=0.00051, nan_ok=True) or "×" in text


N = r"(∞|NaN|[\d,]+(?:\.\d+)?(?:e-\d+)?)"


def few_tokens(numbers: RunNumbers, text: str) -> None:
    val, looked_at = numbers.evaluation.val, numbers.looked_at["val"]
    few = re.search(
        rf"losses are of {N} windows?, {N} tokens?: .* by {N}\. (.*?) (?:gives|m)", text
    )
    assert bool(few) == (val.windows == 1 or val.tokens < FEW_TOKENS)
    if few:
        assert (number(few[1]), number(few[2])) == (val.windows, val.tokens)
        assert near(few[3], COSTLY / val.tokens)
        assert ("evaluate.windows" in few[4]) == (val.windows < numbers.windows["val"])
    some = re.search(rf"best weights, is of {N} of {N} validation", text)
    little = looked_at == 1 or looked_at * CONTEXT < FEW_TOKENS
    assert bool(some) == (not few and little and looked_at < numbers.windows["val"])
    if some:
        assert (number(some[1]), number(some[2])) == (looked_at, numbers.windows["val"])


def training_above_validation(numbers: RunNumbers, text: str) -> None:
    ours, last, looked_at = numbers.evaluation, numbers.history[-1], numbers.looked_at
    easier = re.search(rf"With the (last|best) weights .* takes {N} .* text {N}, over", text)
    learnt = [
        one
        for one in (ours.last, ours.best)
        if numbers.params.train.init_from != "scratch"
        or one.val.loss < (1 - LITTLE) * ours.untrained.val.loss
    ]
    assert bool(easier) == any(one.train.loss - one.val.loss >= PUZZLING for one in learnt)
    if easier:
        weights = getattr(ours, easier[1])
        assert weights.train.loss > weights.val.loss
        assert near(easier[2], weights.train.loss)
        assert near(easier[3], weights.val.loss)
    if "The curves end" in text:
        assert not easier
        assert last.train_loss > last.val_loss
        assert ours.train.loss <= ours.val.loss
        measured = {"train": ours.train.windows, "val": ours.val.windows}
        assert any(looked_at[split] < measured[split] for split in measured)


def step_losses(numbers: RunNumbers, text: str) -> None:
    found = re.search(rf"averages {N} over the last {N} steps?, above the val.* {N}, as", text)
    if found is None:
        return
    steps, last = numbers.training.step_losses, numbers.history[-1]
    assert steps is not None
    assert near(found[1], steps.mean)
    assert number(found[2]) == steps.steps
    assert steps.mean >= last.val_loss + PUZZLING
    assert last.train_loss < last.val_loss + PUZZLING
    assert "where training began" not in text
    assert numbers.evaluation.train.loss < numbers.evaluation.val.loss + PUZZLING
    before = numbers.history[(last.step - steps.steps) // EVERY].train_loss
    dropout = numbers.params.model.dropout > 0
    assert ("with dropout" in text) == dropout
    if "Without it" in text:
        assert before < steps.mean  # so it is not that the weights were older
        assert dropout
    else:
        assert before > last.train_loss


def divergence(numbers: RunNumbers, text: str) -> None:
    found = re.search(rf"training loss was {N} at step {N}, where .* began with {N}", text)
    train, ours = [row.train_loss for row in numbers.history], numbers.evaluation
    above = [not loss - train[0] < RISEN for loss in train]
    whole = not ours.train.loss < ours.untrained.train.loss
    scratch = numbers.params.train.init_from == "scratch"
    assert bool(found) == (whole if above[-1] else any(above) and scratch)
    if found:
        step = int(number(found[2])) // EVERY
        assert above[step]
        assert near(found[1], train[step])
        assert near(found[3], train[0])
        assert not any(loss > train[step] for loss in train)
        assert ("diverged" in text) == above[-1]


def slow(numbers: RunNumbers, text: str) -> None:
    train = [row.train_loss for row in numbers.history]
    found = re.search(rf"fell at each of {N} evaluations, and by (.*) only, from {N} to {N}", text)
    steadily = len(train) > 2 and all(after < before for before, after in pairwise(train))
    scratch = numbers.params.train.init_from == "scratch"
    assert bool(found) == (scratch and steadily and train[0] - train[-1] < LITTLE * train[0])
    if found:
        assert number(found[1]) == len(train) - 1
        assert near(found[4], train[-1])


def frequency(numbers: RunNumbers, text: str) -> None:
    ours, train = numbers.evaluation, [row.train_loss for row in numbers.history]
    found = re.search(rf"best validation loss, {N}, is not below {N}, which", text)
    lowest = np.nanmin([ours.best.val.loss, ours.val.loss, np.inf])
    level = numbers.by_frequency <= lowest < ours.untrained.val.loss
    assert bool(found) == (level and "evaluations, and by" not in text)
    if found:
        assert near(found[1], lowest)
        assert near(found[2], numbers.by_frequency)
    if flat := re.search(rf"stayed between {N} and {N} since step {N}", text):
        end = train[int(number(flat[3])) // EVERY :]
        assert len(end) >= PLATEAU
        assert max(end) - min(end) < FLAT
        assert near(flat[1], min(end))
        assert near(flat[2], max(end))


def learning_rates(numbers: RunNumbers, text: str) -> None:
    train, rows = numbers.params.train, numbers.history
    warm = re.search(rf"never reached {N}: train.warmup_steps is {N}, and .* took {N} steps", text)
    assert bool(warm) == (train.warmup_steps >= numbers.training.steps)
    if warm:
        assert all(row.learning_rate < train.learning_rate for row in rows[:-1])
    if found := re.search(
        rf"From step {N} on .* changes by (.*) nats, after a fall of {N} since step {N}", text
    ):
        start, before = (int(number(found[i])) // EVERY for i in (1, 4))
        end = rows[start:]
        assert start - before >= len(end) - 1
        fell = rows[before].train_loss - end[0].train_loss
        assert near(found[3], fell)
        losses = [row.train_loss for row in end]
        assert found[2] == gap(max(losses) - min(losses))
        assert FASTER * (max(losses) - min(losses)) <= fell
        assert max(losses) - min(losses) < FLAT
        assert min(losses) >= KNOWN
        rates = [row.learning_rate for row in end]
        assert rates == sorted(rates, reverse=True)
        assert rates[0] <= LOW_RATE * train.learning_rate
        assert not warm


def characters(numbers: RunNumbers, text: str) -> None:
    found = numbers.characters_per_token or 4.0
    assert ("bits per byte can" in text) == (found < FEW_CHARACTERS)
    assert ("cut into several" in text) == (found < 1)


@given(numbers=runs())
def test_each_claim_of_a_remark_is_what_the_numbers_say(numbers: RunNumbers) -> None:
    text = " ".join(remarks(numbers))
    assert not re.search(r"\b(nan|inf)\b", text)
    for check in (
        few_tokens,
        training_above_validation,
        step_losses,
        divergence,
        slow,
        frequency,
        learning_rates,
        characters,
    ):
        check(numbers, text)


def test_a_remark_stands_on_the_page_and_in_markdown(page: ComparisonPage) -> None:
    remarked = replace(page, remarks=["Loss <i>rose</i> & *fell*."])
    assert "<p>Loss &lt;i&gt;rose&lt;/i&gt; &amp; *fell*.</p>" in render_html(remarked)
    lines = render_markdown(remarked).splitlines()
    assert lines[lines.index("## What may puzzle") + 2].startswith("- Loss ")
    for bare in (render_html(page), render_markdown(page)):
        assert "What may puzzle" not in bare
