"""Decoding: prompts in, completions out, in one batch, with every key and value computed once.

`generate` takes prompts, each with its settings. Equal prompts are computed once, requests that
cannot differ are decoded once, and each step reads the weights once for all of them; a request
alone is decoded speculatively (`speculative`). Greedy output is, token for token, that of
recomputing the whole context at every step.

Sharp edge: GPT-2's positions are learned and absolute. A context that outgrows `context_length`
slides: every further token sees the last `context_length` tokens, whose positions, and with them
all keys and values, are new each time. Nothing can be reused then; a warning says so.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.generation.forward import Network
from pipeline.generation.loop import DecodingLoop, OnToken
from pipeline.generation.matmul_kernels import Precision
from pipeline.generation.sampling import Sampler, Sampling
from pipeline.generation.sequences import CompletionOutput, check_tokens, distinct_requests
from pipeline.generation.step_weights import StepWeights
from pipeline.model.gpt import GPT, meta_model
from pipeline.tokens.tokenizer import END_OF_TEXT, encode


class Decoder:
    """A model that is ready to complete prompts, again and again.

    Copies of the weights that are faster to compute with are made when they first pay, and kept:
    while the weights change, as in training, make a new decoder each time.
    """

    def __init__(self, model: GPT, precision: Precision = "model") -> None:
        """Copy nothing yet, but for bf16.

        Args:
            precision: `model` is the weights' own, and alone promises the model's own tokens;
                `bf16` rounds weights and activations, `int8` the weights and inputs of each
                step's matmuls.
        """
        self.model = _cast(model, torch.bfloat16) if precision == "bf16" else model
        self.network = Network(self.model)
        self.weights = StepWeights(self.model, precision)

    def prepare(self) -> Decoder:
        """Make the copies of the weights now, for many calls to come; return the decoder."""
        self.weights.prepare()
        return self

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        samplings: Sequence[Sampling],
        max_new_tokens: int,
        *,
        on_token: OnToken | None = None,
        end_of_text: int = END_OF_TEXT,
    ) -> list[CompletionOutput]:
        """As the function `generate`."""
        assert len(prompts) == len(samplings), "one Sampling per prompt"
        assert max_new_tokens >= 0
        for prompt in prompts:
            check_tokens(prompt, self.model.config.vocab_size)
        requests = distinct_requests(prompts, samplings, max_new_tokens, end_of_text)
        if requests and max_new_tokens:
            with torch.inference_mode():
                DecodingLoop(self.network, self.weights, requests, on_token, end_of_text).run()
            self.weights.tokens_alone += max_new_tokens * (len(requests) == 1)
        outputs = {i: request.output(samplings[i]) for request in requests for i in request.indices}
        return [outputs[i] for i in range(len(prompts))]


def generate(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    samplings: Sequence[Sampling],
    max_new_tokens: int,
    *,
    precision: Precision = "model",
    on_token: OnToken | None = None,
    end_of_text: int = END_OF_TEXT,
) -> list[CompletionOutput]:
    """Complete every prompt under the settings at the same place.

    The model's mode is neither read nor changed: there is no dropout, and torch's global random
    generator is not used.

    Args:
        prompts: token ids; an empty prompt starts from end-of-text.
        samplings: as many as prompts.
        max_new_tokens: for each prompt; fewer where end-of-text comes first.
        precision: see `Decoder`.
        on_token: called as `on_token(i, token)` for each token of prompt i's completion, as it
            comes.
        end_of_text: the token that ends a completion.

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
    """The next token's distribution under each of several settings: (settings, V), float64."""
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
