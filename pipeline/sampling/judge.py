"""GPT-2 small as a judge of samples: how likely they are as English."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from pipeline.errors import UserError
from pipeline.gpt2.load import load_kept
from pipeline.model.gpt import GPT
from pipeline.model.loss import token_losses
from pipeline.model.runtime import Runtime
from pipeline.params import Gpt2
from pipeline.sampling.grid import Judge

SIZE = "124M"


def gpt2_judge(settings: Gpt2, runtime: Runtime, notify: Callable[[str], None]) -> Judge | None:
    """GPT-2 small in the precision that is fast here, where `gpt2.sizes` names it.

    Like every size that is named it is fetched if it is not there; None, and a line, where it
    cannot be had or is not named.
    """
    try:
        if SIZE not in settings.sizes:
            raise UserError(f"gpt2.sizes does not name {SIZE}")
        model = load_kept(SIZE, settings).to(runtime.device)
    except UserError as error:
        notify(f"no perplexity under GPT-2 small: {error}")
        return None

    def nats(prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> list[float]:
        with runtime.autocast():
            return nats_under(model, prompts, completions)

    return nats


def nats_under(
    model: GPT, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
) -> list[float]:
    """Each completion's loss under a model after its prompt, in nats, summed over its tokens.

    Of what is longer than the model's context, the last tokens are looked at. Equal ones, as all
    greedy settings give, are computed once. The model must be in evaluation mode.
    """
    pairs = [(tuple(p), tuple(c)) for p, c in zip(prompts, completions, strict=True)]
    nats = {pair: _nats_of_one(model, *pair) for pair in dict.fromkeys(pairs)}
    return [nats[pair] for pair in pairs]


def _nats_of_one(model: GPT, prompt: Sequence[int], completion: Sequence[int]) -> float:
    if not completion:
        return 0.0
    tokens = torch.tensor([*prompt, *completion][-model.config.context_length - 1 :])
    tokens = tokens.to(model.wte.weight.device)
    with torch.inference_mode():
        hidden = model.hidden(tokens[None, :-1])[0, -len(completion) :]
        targets = tokens[-len(completion) :][-len(hidden) :]
        return float(token_losses(hidden, model.head_weight, targets).sum(dtype=torch.float64))
