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
        if max_new_tokens < 1:
            raise UserError(f"max_new_tokens must be at least 1, not {max_new_tokens}")
        sampling = Sampling(temperature=temperature, top_k=top_k or None, seed=seed)
        rows = [encode(prompt) for prompt in prompts]
        completions = decoder.generate(rows, [sampling] * len(rows), max_new_tokens)
        return [completion.text for completion in completions]

    return complete


serve(load)
