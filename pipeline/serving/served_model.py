"""What MLflow executes to serve a trained model: prompts in, completions out.

It decodes as `lossbook generate` does. MLflow copies this file into the model; of the project it
imports nothing but `pipeline`, a copy of which goes with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import load_file

from pipeline.errors import UserError
from pipeline.generation.decode import Decoder
from pipeline.generation.sampling import Sampling
from pipeline.model.runtime import choose_runtime
from pipeline.model.saved import load_config, model_of
from pipeline.serving import MOST_CHARACTERS, MOST_NEW_TOKENS
from pipeline.serving.pyfunc import Complete, serve
from pipeline.tokens.tokenizer import encode


def load(folder: Path) -> Complete:
    """The folder's model, on this machine's best device, as a function of prompts."""
    (path,) = folder.glob("*.safetensors")
    model = model_of(load_config(folder), load_file(path), path).to(choose_runtime().device)
    decoder = Decoder(model)  # kept: what it learns to compute faster serves every call

    def complete(
        prompts: Sequence[str], *, temperature: float, top_k: int, max_new_tokens: int, seed: int
    ) -> list[str]:
        check_size(prompts, max_new_tokens)
        sampling = Sampling(temperature=temperature, top_k=top_k or None, seed=seed)
        rows = [encode(prompt) for prompt in prompts]
        completions = decoder.generate(rows, [sampling] * len(rows), max_new_tokens)
        return [completion.text for completion in completions]

    return complete


def check_size(prompts: Sequence[str], max_new_tokens: int) -> None:
    """Raise `UserError` where a request asks for nothing, or for more than a request may."""
    if max_new_tokens < 1:
        raise UserError(f"max_new_tokens must be at least 1, not {max_new_tokens}")
    if len(prompts) * max_new_tokens > MOST_NEW_TOKENS:
        raise UserError(
            f"{len(prompts)} prompts with max_new_tokens {max_new_tokens} are more than "
            f"{MOST_NEW_TOKENS} new tokens; send fewer prompts, or lower max_new_tokens"
        )
    if sum(map(len, prompts)) > MOST_CHARACTERS:
        raise UserError(f"the prompts have more than {MOST_CHARACTERS} characters in all")


serve(load)
