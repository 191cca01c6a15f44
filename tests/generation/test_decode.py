"""Decoding: cached equals uncached, batched equals single, for any requests; and the edges."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.generation.decode import Decoder, complete, generate
from pipeline.generation.forward import Network
from pipeline.generation.kv_cache import KVCache
from pipeline.generation.sampling import Sampling
from pipeline.generation.speculative import DRAFT_FROM, DraftLength
from pipeline.generation.step_weights import PackedWeights
from pipeline.model.gpt import GPT
from pipeline.tokens.tokenizer import END_OF_TEXT, encode

VOCABULARY = 61
END = VOCABULARY - 1
Asked = tuple[list[int], Sampling]  # a prompt and its settings
Tiny = Callable[..., GPT]
Reference = Callable[..., tuple[int, ...]]
GREEDY = Sampling(temperature=0.0)
TOKEN = st.integers(0, VOCABULARY - 1)
MODELS = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 10**6),
        "n_layer": st.integers(1, 3),
        "n_head": st.sampled_from([1, 2, 4]),
        "n_embd": st.sampled_from([8, 16]),
        "context_length": st.integers(2, 20),
        "qkv_bias": st.booleans(),
        "tie_weights": st.booleans(),
    }
)
SAMPLINGS = st.one_of(
    st.just(GREEDY),
    st.builds(
        Sampling,
        temperature=st.sampled_from([0.3, 1.0, 2.0]),
        top_k=st.sampled_from([None, 1, 2, 10, 500]),
        top_p=st.sampled_from([None, 0.5, 0.9]),
        min_p=st.sampled_from([None, 0.05]),
        seed=st.integers(0, 5),
    ),
)
REQUESTS = st.lists(st.tuples(st.lists(TOKEN, max_size=24), SAMPLINGS), min_size=1, max_size=7)


def tokens_of(model: GPT, requests: list[Asked], count: int) -> list[tuple[int, ...]]:
    prompts, samplings = zip(*requests, strict=True)
    return [c.tokens for c in generate(model, prompts, samplings, count, end_of_text=END)]


@settings(max_examples=40, deadline=None)
@given(changes=MODELS, requests=REQUESTS, count=st.integers(1, 25))
def test_any_batch_decodes_each_prompt_as_recomputing_everything_does(
    tiny: Tiny, reference: Reference, changes: dict, requests: list[Asked], count: int
) -> None:
    model = tiny(**changes)
    expected = [reference(model, prompt, sampling, count, END) for prompt, sampling in requests]
    assert tokens_of(model, requests, count) == expected


@settings(max_examples=15, deadline=None)
@given(changes=MODELS, requests=REQUESTS)
def test_greedy_decoding_is_exact_where_rounding_decides(
    tiny: Tiny, reference: Reference, changes: dict, requests: list[Asked]
) -> None:
    """In bf16 the best logits tie all the time."""
    model = tiny(**changes).bfloat16()
    expected = [reference(model, prompt, GREEDY, 12, END) for prompt, _ in requests]
    assert tokens_of(model, [(prompt, GREEDY) for prompt, _ in requests], 12) == expected


@settings(max_examples=30, deadline=None)
@given(changes=MODELS, prompt=st.lists(TOKEN, max_size=6), sampling=SAMPLINGS)
def test_speculative_decoding_changes_no_token(
    tiny: Tiny, reference: Reference, changes: dict, prompt: list[int], sampling: Sampling
) -> None:
    model = tiny(**changes)
    expected = reference(model, prompt, sampling, 25, END)
    seen: list[int] = []
    decoder = Decoder(model).prepare()
    (completion,) = decoder.generate(
        [prompt], [sampling], 25, end_of_text=END, on_token=lambda index, token: seen.append(token)
    )
    assert completion.tokens == expected
    assert tuple(seen) == expected


def test_drafts_are_made_and_mostly_accepted(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = []
    original = Network.advance

    def advance(
        self: Network, tokens: torch.Tensor, cache: KVCache, weights: PackedWeights
    ) -> torch.Tensor:
        passes.append((weights, tokens.shape[1]))
        return original(self, tokens, cache, weights)

    monkeypatch.setattr(Network, "advance", advance)
    decoder = Decoder(tiny(context_length=256, n_embd=32)).prepare()
    (completion,) = decoder.generate([[1]], [Sampling(1.0, 10, seed=1)], 200, end_of_text=-1)
    assert len(completion.tokens) == 200
    own = [width for weights, width in passes if weights is not decoder.weights.packed("int8")]
    assert len(own) < 80
    assert max(own) <= 13


def test_copies_are_made_once_they_pay(tiny: Tiny) -> None:
    decoder = Decoder(tiny(context_length=200))
    decoder.generate([[1]], [Sampling(seed=1)], 100, end_of_text=-1)
    assert not decoder.weights.can_draft(DRAFT_FROM - 101)
    assert decoder.weights.can_draft(DRAFT_FROM - 100)  # with the 100 before them
    assert Decoder(tiny()).weights.can_draft(1000)
    assert not Decoder(tiny(), "int8").weights.can_draft(1000)
    assert not Decoder(tiny().bfloat16()).weights.can_draft(1000)


def test_drafting_stops_where_drafts_are_rejected() -> None:
    draft_length = DraftLength()
    made = []
    for _ in range(200):
        made.append(draft_length.choose())
        if made[-1]:
            draft_length.update(made[-1], 0)
    assert made[0] > 2
    assert made[-33:].count(0) == 32  # one attempt in so many steps
    for _ in range(40):
        draft_length.update(1, 1)
    assert draft_length.choose() > 4


def test_equal_logits_go_to_the_lowest_id(tiny: Tiny) -> None:
    model = tiny(tie_weights=True)
    with torch.no_grad():
        model.wte.weight.zero_()
    assert generate(model, [[5]], [GREEDY], 3, end_of_text=END)[0].tokens == (0, 0, 0)


def test_equal_prompts_are_computed_once(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    embedded = []
    original = Network._embed
    monkeypatch.setattr(Network, "_embed", lambda self, w: embedded.extend(w) or original(self, w))
    requests = [([1, 2, 3], Sampling(seed=seed)) for seed in range(5)] + [([1, 2], Sampling())]
    tokens_of(tiny(), requests, 4)
    assert sorted(embedded) == [(1, 2), (1, 2, 3)]


@pytest.fixture
def batch_sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many sequences each step has computed."""
    seen = []
    original = Network.advance

    def advance(self: Network, tokens: torch.Tensor, *rest: object) -> torch.Tensor:
        seen.append(len(tokens))
        return original(self, tokens, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Network, "advance", advance)
    return seen


def test_requests_that_cannot_differ_are_one(tiny: Tiny, batch_sizes: list[int]) -> None:
    greedy = [Sampling(0.0, k, seed=k) for k in (1, 2, 3)] + [Sampling(2.0, 1)]
    samplings = [*greedy, Sampling(1.0, seed=1), Sampling(1.0, seed=1)]
    seen: list[tuple[int, int]] = []
    completions = generate(
        tiny(),
        [[7, 8]] * 6,
        samplings,
        4,
        end_of_text=END,
        on_token=lambda index, token: seen.append((index, token)),
    )
    assert set(batch_sizes) <= {1, 2}
    assert [c.sampling for c in completions] == samplings
    for index, completion in enumerate(completions):
        assert tuple(token for i, token in seen if i == index) == completion.tokens


def test_equal_tokens_are_one_sequence_until_they_differ(
    tiny: Tiny, batch_sizes: list[int]
) -> None:
    samplings = [Sampling(t, k, seed=3) for t in (0.3, 0.6, 1.0) for k in (2, 5, None)]
    completions = generate(tiny(8), [[1, 2]] * 9, samplings, 9, end_of_text=-1)
    tokens = [completion.tokens for completion in completions]
    assert batch_sizes == [len({each[:count] for each in tokens}) for count in range(1, 9)]
    assert 1 < batch_sizes[-1] < 9


def test_a_full_context_slides_and_says_so(
    tiny: Tiny, reference: Reference, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny(context_length=6)
    with caplog.at_level(logging.WARNING):
        assert tokens_of(model, [([1, 2], GREEDY)], 5) == [reference(model, [1, 2], GREEDY, 5, END)]
        assert not caplog.records  # the sixth token is still seen whole
        assert tokens_of(model, [([1, 2], GREEDY)], 30) == [
            reference(model, [1, 2], GREEDY, 30, END)
        ]
    (record,) = caplog.records
    assert "outgrow the model's context of 6 tokens" in record.getMessage()


def test_stops_at_end_of_text(tiny: Tiny) -> None:
    model = tiny(3)
    free = generate(model, [[1]], [Sampling(seed=4)], 30, end_of_text=-1)[0]
    end = free.tokens[7]
    stopped = generate(model, [[1]], [Sampling(seed=4)], 30, end_of_text=end)[0]
    assert stopped.finish_reason == "end_of_text"
    assert stopped.tokens == free.tokens[: free.tokens.index(end)]
    assert free.finish_reason == "length"
    assert len(free.tokens) == 30


def test_an_empty_prompt_starts_from_end_of_text(tiny: Tiny) -> None:
    requests = [([], GREEDY), ([END], GREEDY), ([], Sampling(seed=3)), ([END], Sampling(seed=3))]
    empty, special, empty_drawn, special_drawn = tokens_of(tiny(5), requests, 10)
    assert empty == special
    assert empty_drawn == special_drawn


def test_one_seed_draws_differently_after_each_prompt(tiny: Tiny) -> None:
    """Else samples of hot settings would resemble each other, and look less diverse."""
    requests = [([prompt], Sampling(1000.0, seed=3)) for prompt in range(20)]
    found = tokens_of(tiny(), requests, 8)
    assert len({tokens[:3] for tokens in found}) == 20


def test_mean_log_prob_is_the_models_own(tiny: Tiny) -> None:
    model = tiny(1)
    sampling = Sampling(temperature=2.0, top_k=7, seed=5)
    completion = generate(model, [[1, 2, 3]], [sampling], 8, end_of_text=-1)[0]
    tokens = torch.tensor([[1, 2, 3, *completion.tokens]])
    with torch.no_grad():
        log_probs = torch.log_softmax(model(tokens)[0], -1)
    drawn = log_probs[2:-1].gather(1, tokens[0, 3:, None])
    assert completion.mean_log_prob == pytest.approx(float(drawn.mean()), abs=1e-5)


def test_training_mode_and_random_state_are_left_alone(tiny: Tiny) -> None:
    model = tiny(2)
    expected = tokens_of(model, [([1], Sampling(seed=1))], 8)
    model.train()
    state = torch.random.get_rng_state()
    assert tokens_of(model, [([1], Sampling(seed=1))], 8) == expected
    assert model.training
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("precision", ["model", "int8"])
def test_weights_that_are_no_numbers_are_an_error(tiny: Tiny, value: float, precision: str) -> None:
    model = tiny()
    with torch.no_grad():
        model.h[0].mlp.c_fc.weight[3, 3] = value
    with pytest.raises(UserError, match="logits are not finite: its weights hold NaN"):
        generate(model, [[1]], [Sampling()], 3, precision=precision)  # type: ignore[arg-type]


@pytest.mark.parametrize("token", [-1, VOCABULARY])
def test_a_token_outside_the_vocabulary_is_named(tiny: Tiny, token: int) -> None:
    with pytest.raises(
        UserError, match=f"token {token} of the prompt is not one of the model's 61"
    ):
        generate(tiny(), [[1, token]], [GREEDY], 3)


def test_nothing_asked_gives_nothing(tiny: Tiny) -> None:
    assert generate(tiny(), [], [], 5) == []
    (completion,) = generate(tiny(), [[1]], [GREEDY], 0)
    assert (completion.tokens, completion.text) == ((), "")


def test_complete_gives_the_continuation_as_text(tiny: Tiny) -> None:
    model = tiny(vocab_size=END_OF_TEXT + 1, n_embd=8, context_length=16)
    text = complete(model, "Every effort moves you", Sampling(top_k=20, seed=1), 5)
    prompt = encode("Every effort moves you")
    (completion,) = generate(model, [prompt], [Sampling(top_k=20, seed=1)], 5)
    assert text == completion.text
    assert len(completion.tokens) == 5
