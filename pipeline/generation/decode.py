"""Decoding: prompts in, completions out, in one batch, with every key and value computed once.

`generate` takes rows of (prompt, settings). Equal prompts are computed once, rows that cannot
differ are decoded once, and each step reads the weights once for all rows; a row alone is guessed
ahead (`guessing`). Greedy output is, token for token, that of recomputing the whole context at
every step.

Sharp edge: GPT-2's positions are learned and absolute. A context that outgrows `context_length`
slides: every further token sees the last `context_length` tokens, whose positions, and with them
all keys and values, are new each time. Nothing can be reused then; a warning says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial

import torch
from torch import Tensor

from pipeline.generation import matmul_kernels as products
from pipeline.generation.forward import Network, Weights, pack
from pipeline.generation.loop import Decoding, OnToken
from pipeline.generation.matmul_kernels import Kind, Precision
from pipeline.generation.sampling import Sampler, Sampling
from pipeline.generation.sequences import Completion, check_tokens, rows_of
from pipeline.generation.speculative import GUESS_FROM
from pipeline.model.gpt import GPT, meta_model
from pipeline.tokens.tokenizer import END_OF_TEXT, encode

__all__ = ["Completion", "Decoder", "complete", "generate", "next_token_probabilities"]


class Decoder:
    """A model made ready to complete prompts, again and again.

    Copies of the weights that are faster to compute with are made when they first pay, and kept:
    while the weights change, as in training, make a new decoder each time.
    """

    def __init__(self, model: GPT, precision: Precision = "model") -> None:
        """Copy nothing yet, but for bf16.

        Args:
            precision: `model` is the weights' own, and alone promises the model's own tokens;
                `bf16` rounds weights and activations, `int8` the weights and inputs of each
                step's products.
        """
        self.model = _cast(model, torch.bfloat16) if precision == "bf16" else model
        self.precision = precision
        self.network = Network(self.model)
        self._copies: dict[Kind, Weights] = {"plain": self.network.plain}
        self._choose = cache(partial(products.choose, self.model, precision=precision))
        self._can_guess = self.exact and products.can_copy(self.model, "eight_bit")
        self._decoded = 0  # tokens of batches of one, in earlier calls

    @property
    def exact(self) -> bool:
        """Whether greedy output is that of the model recomputing everything."""
        return self.precision == "model"

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        samplings: Sequence[Sampling],
        max_new_tokens: int,
        *,
        on_token: OnToken | None = None,
        end_of_text: int = END_OF_TEXT,
    ) -> list[Completion]:
        """As the function `generate`."""
        assert len(prompts) == len(samplings), "one Sampling a prompt"
        assert max_new_tokens >= 0
        for prompt in prompts:
            check_tokens(prompt, self.model.config.vocab_size)
        rows = rows_of(prompts, samplings, max_new_tokens, end_of_text)
        if rows and max_new_tokens:
            with torch.inference_mode():
                Decoding(self, rows, on_token, end_of_text).run()
            self._decoded += max_new_tokens * (len(rows) == 1)
        completions = {i: row.completion(samplings[i]) for row in rows for i in row.wanted_by}
        return [completions[i] for i in range(len(prompts))]

    def step_kind(self, rows: int, steps: int) -> Kind:
        """The products for `steps` steps of `rows` rows."""
        return self._choose(rows, steps)

    def can_guess(self, steps: int) -> bool:
        """Whether 8-bit copies may guess ahead for a row of `steps` more tokens."""
        pays = "eight_bit" in self._copies or self._decoded + steps >= GUESS_FROM
        return self._can_guess and pays

    def prepare(self) -> Decoder:
        """Make the copies of the weights now, for many calls to come; returns the decoder."""
        if self._can_guess:
            self.weights(self.step_kind(rows=2, steps=GUESS_FROM))
            self.weights("eight_bit")
        return self

    def weights(self, kind: Kind) -> Weights:
        """The products of one kind, made when they are first asked for."""
        if kind not in self._copies:
            with torch.inference_mode():
                self._copies[kind] = pack(self.model, kind)
        return self._copies[kind]


def generate(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    samplings: Sequence[Sampling],
    max_new_tokens: int,
    *,
    precision: Precision = "model",
    on_token: OnToken | None = None,
    end_of_text: int = END_OF_TEXT,
) -> list[Completion]:
    """Complete every prompt under the settings at the same place.

    The model's mode is neither read nor changed: there is no dropout here, and none of torch's
    global random numbers is used.

    Args:
        prompts: token ids; an empty prompt starts from end-of-text.
        samplings: as many as prompts.
        max_new_tokens: for each row; fewer where end-of-text comes first.
        precision: see `Decoder`.
        on_token: called as `on_token(row, token)` for each token of a completion, as it comes.
        end_of_text: the token that ends a row.

    Raises:
        UserError: a token id is not in the vocabulary, the logits are not finite, or this machine
            has no kernels for the precision.
    """
    decoder = Decoder(model, precision)
    return decoder.generate(
        prompts, samplings, max_new_tokens, on_token=on_token, end_of_text=end_of_text
    )


def complete(
    model: GPT,
    prompt: str,
    sampling: Sampling,
    max_new_tokens: int,
    *,
    precision: Precision = "model",
) -> str:
    """The continuation of one prompt, without the prompt."""
    tokens = [encode(prompt)]
    return generate(model, tokens, [sampling], max_new_tokens, precision=precision)[0].text


def next_token_probabilities(
    model: GPT, prompt: Sequence[int], samplings: Sequence[Sampling]
) -> Tensor:
    """What the next token is drawn from under each of several settings: (settings, V), float64."""
    tokens = list(prompt) or [END_OF_TEXT]
    check_tokens(tokens, model.config.vocab_size)
    with torch.inference_mode():
        window = tokens[-model.config.context_length :]
        logits = Network(model).last_logits([window]).cpu()
        return Sampler(samplings).probabilities(logits.expand(len(samplings), -1))


def _cast(model: GPT, dtype: torch.dtype) -> GPT:
    """The same model with its weights in another type."""
    cast = meta_model(model.config)
    cast.load_state_dict({k: v.to(dtype) for k, v in model.state_dict().items()}, assign=True)
    return cast
