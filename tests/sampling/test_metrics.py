"""Sample metrics, against numbers worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from pipeline.generation.sampling import Sampling
from pipeline.generation.sequences import CompletionOutput, FinishReason
from pipeline.model.gpt import GPT
from pipeline.model.runtime import Runtime
from pipeline.params import Gpt2
from pipeline.sampling.judge import gpt2_judge, nats_under
from pipeline.sampling.memorisation import CopiedSpans
from pipeline.sampling.metrics import SampleGroup, distinct, measure, repetition

NONE = CopiedSpans()


def completion(
    tokens: Sequence[int], mean_log_prob: float = -1.0, reason: FinishReason = "length"
) -> CompletionOutput:
    return CompletionOutput(tuple(tokens), "", reason, mean_log_prob, Sampling())


def test_distinct_counts_ngrams_over_the_group() -> None:
    samples = [[1, 2, 1, 2], [1, 2, 3]]
    assert distinct(samples, 1) == 3 / 7
    assert distinct(samples, 2) == 3 / 5  # 12 21 12 | 12 23
    assert distinct(samples, 3) == 3 / 3  # 121 212 | 123
    assert distinct(samples, 4) == 1.0
    assert distinct(samples, 5) is None


def test_repetition_is_of_4_grams() -> None:
    assert repetition([1, 2, 3, 4, 5, 6, 7]) == 0
    assert repetition([1, 2, 3, 4, 1, 2, 3, 4]) == pytest.approx(1 / 5)
    assert repetition([5] * 20) == pytest.approx(16 / 17)
    assert repetition([1, 2, 3]) is None


def test_a_group_is_pooled_over_its_tokens() -> None:
    group = [completion([1] * 9, -2.0, "end_of_text"), completion([1, 2], -4.0)]
    copies = [CopiedSpans(((0, 8),), (1,) * 8, 3), NONE]
    metrics = measure(SampleGroup(group, copies, gpt2_nats=[20.0, 2.0]))
    assert metrics["mean_log_prob"] == pytest.approx((10 * -2.0 + 2 * -4.0) / 12)
    assert metrics["gpt2_perplexity"] == pytest.approx(math.exp(22 / 11))
    assert metrics["length"] == 5.5
    assert metrics["ended"] == 0.5
    assert metrics["copied"] == 8 / 11
    assert metrics["longest_copy"] == 8
    assert metrics["repetition"] == pytest.approx(5 / 6)
    assert measure(SampleGroup(group, copies))["gpt2_perplexity"] is None


def test_a_group_that_ended_at_once_has_nothing_to_measure() -> None:
    group = SampleGroup([completion([], -0.5, "end_of_text")], [NONE], gpt2_nats=[0.0])
    assert measure(group) == {
        "distinct_1": None,
        "distinct_2": None,
        "distinct_3": None,
        "repetition": None,
        "mean_log_prob": -0.5,
        "gpt2_perplexity": None,
        "length": 0.0,
        "ended": 1.0,
        "copied": None,
        "longest_copy": 0,
    }


def test_nats_under_a_model_are_those_of_the_completion(tiny: Callable[..., GPT]) -> None:
    model = tiny(3)
    prompt, tokens = [1, 2, 3], [4, 5, 6, 7]
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *tokens]]))[0]
    expected = F.cross_entropy(logits[2:-1], torch.tensor(tokens), reduction="sum")
    (nats, empty) = nats_under(model, [prompt, prompt], [tokens, []])
    assert nats == pytest.approx(float(expected), rel=1e-6)
    assert empty == 0


def test_nats_of_more_than_a_context_are_of_its_end(tiny: Callable[..., GPT]) -> None:
    model = tiny(3, context_length=6)
    tokens = list(range(20))
    (nats,) = nats_under(model, [[50]], [tokens])
    with torch.no_grad():
        logits = model(torch.tensor([tokens[-7:-1]]))[0]
    expected = F.cross_entropy(logits, torch.tensor(tokens[-6:]), reduction="sum")
    assert nats == pytest.approx(float(expected), rel=1e-6)


def said_by_the_judge(settings: Gpt2) -> list[str]:
    said: list[str] = []
    assert gpt2_judge(settings, Runtime(torch.device("cpu"), bf16=False), said.append) is None
    return said


def test_what_gpt2_thinks_depends_on_params_and_not_on_what_happens_to_be_cached(
    cache: Path,
) -> None:
    asked_for = Gpt2(sizes=("124M",), mirror="http://127.0.0.1:1")
    (line,) = said_by_the_judge(asked_for)
    assert "GPT-2 124M cannot be had: 127.0.0.1 cannot be reached" in line
    (line,) = said_by_the_judge(asked_for.model_copy(update={"sizes": ("774M",)}))
    assert line == "no perplexity under GPT-2 small: gpt2.sizes does not name 124M"
