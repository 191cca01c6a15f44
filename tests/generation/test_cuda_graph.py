"""Decoding as on a GPU, on the CPU: all but the capture of the graph runs there, too."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.generation import loop
from pipeline.generation.cuda_graph import CapturedStep, StaticKVCache
from pipeline.generation.decode import generate
from pipeline.generation.draws import pack_greedy
from pipeline.generation.forward import Network
from pipeline.generation.sampling import Sampling
from pipeline.generation.sequences import CompletionOutput
from pipeline.model.gpt import GPT, GPTConfig, meta_model

VOCABULARY = 61
END = VOCABULARY - 1
GREEDY = Sampling(temperature=0.0)
Asked = tuple[list[int], Sampling]
REQUESTS = st.lists(
    st.tuples(
        st.lists(st.integers(0, VOCABULARY - 1), max_size=14),
        st.sampled_from([GREEDY, Sampling(seed=1), Sampling(2.0, top_k=5), Sampling(top_p=0.9)]),
    ),
    min_size=1,
    max_size=9,
)


class Captures:
    """Every capture's batch size."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        original = CapturedStep._capture

        def capture(step: CapturedStep, cache: StaticKVCache) -> Callable[[], None]:
            self.sizes.append(len(cache.starts))
            return original(step, cache)

        monkeypatch.setattr(CapturedStep, "_capture", capture)
        monkeypatch.setattr(loop, "captures", lambda network: True)


def completions(model: GPT, requests: list[Asked], count: int) -> list[CompletionOutput]:
    prompts, samplings = zip(*requests, strict=True)
    return generate(model, prompts, samplings, count, end_of_text=END)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    context_length=st.integers(2, 20),
    bf16=st.booleans(),
    requests=REQUESTS,
    count=st.integers(1, 25),
)
def test_the_graph_s_steps_draw_the_tokens_of_the_cpu_s(
    tiny: Callable[..., GPT],
    reference: Callable[..., tuple[int, ...]],
    seed: int,
    context_length: int,
    bf16: bool,
    requests: list[Asked],
    count: int,
) -> None:
    """Those that end or slide included, at any place of the batch; greedy ones as recomputed."""
    model = tiny(seed=seed, context_length=context_length).to(
        torch.bfloat16 if bf16 else torch.float32
    )
    expected = completions(model, requests, count)
    with pytest.MonkeyPatch.context() as monkeypatch:
        captures = Captures(monkeypatch)
        found = completions(model, requests, count)
    for one, other, (prompt, sampling) in zip(found, expected, requests, strict=True):
        if sampling.greedy or not bf16:  # drawn tokens are promised where rounding is small
            assert one.tokens == other.tokens
            assert one.finish_reason == other.finish_reason
            close = 0.05 if bf16 else 1e-5
            assert one.mean_log_prob == pytest.approx(other.mean_log_prob, abs=close)
        if sampling.greedy:
            assert one.tokens == reference(model, prompt, sampling, count, END)
    assert all(size <= before / 2 for before, size in pairwise(captures.sizes))


def ending_after(model: GPT, prompts: list[list[int]], count: int) -> list[int]:
    drawn = completions(model, [(prompt, Sampling(seed=3)) for prompt in prompts], count)
    return [len(one.tokens) for one in drawn]


def test_rows_that_end_are_captured_again_only_when_half_have(
    tiny: Callable[..., GPT], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny(seed=5, context_length=64)
    prompts = [[token] for token in range(16)]
    captures = Captures(monkeypatch)
    lengths = ending_after(model, prompts, 60)
    assert len(set(lengths)) > 8, "rows are to end at many steps"
    assert 1 < len(captures.sizes) <= 1 + math.log2(len(prompts))
    assert captures.sizes[0] == 16


def test_a_captured_step_reads_no_value(tiny: Callable[..., GPT]) -> None:
    """On tensors without values: whatever waited for one would raise."""
    model = meta_model(GPTConfig(2, 2, 16, 32, VOCABULARY))
    network = Network(model)
    cache = StaticKVCache(model.config, [3, 5], 4, like=network.wte)
    step = CapturedStep(network, rounding=2**-16)
    logits, greedy = step([1, 2], cache)
    assert (tuple(logits.shape), tuple(greedy.shape)) == ((2, VOCABULARY), (4, 2))
    assert greedy.dtype == torch.float64  # in which every token id is exact


def test_greedy_draws_are_packed_with_what_decides_them() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0], [5.0, 5.0, -1.0]])
    tokens, log_probs, close, log_total = pack_greedy(logits, rounding=2**-16).tolist()
    assert tokens == [1, 0]
    assert close == [0, 1]
    assert log_total == pytest.approx(torch.logsumexp(logits.double(), -1).tolist())
    assert log_probs == pytest.approx([2 - log_total[0], 5 - log_total[1]], abs=1e-6)


def test_weights_that_are_not_finite_are_named(
    tiny: Callable[..., GPT], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny()
    Captures(monkeypatch)
    with torch.no_grad():
        model.wpe.weight[4] = torch.nan  # beyond the prompt
    with pytest.raises(UserError, match="logits are not finite"):
        completions(model, [([1, 2], GREEDY)], 8)
