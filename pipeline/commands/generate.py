"""`lossbook generate`: text from any model here, shown token by token."""

from __future__ import annotations

import codecs
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.commands.console import FILE, Command, echo
from pipeline.commands.options import model_option, weights_option
from pipeline.errors import UserError
from pipeline.params import MOST_NEW_TOKENS, Params, load_params
from pipeline.system.text import printable
from pipeline.tokens.tokenizer import encode, token_bytes

if TYPE_CHECKING:  # torch comes with it
    from pipeline.generation.sequences import CompletionOutput


MOST_BYTES = 2**20  # of a prompt, whose end alone is within a model's context


@click.command(cls=Command)
@click.argument("prompt", required=False)
@model_option
@weights_option
@click.option("--temperature", type=float, help="0 takes the likeliest token each time.")
@click.option("--top-k", type=int, help="Draw from the k likeliest tokens; 0 for all.")
@click.option("--top-p", type=float, help="Draw from the likeliest tokens that make up p.")
@click.option("--min-p", type=float, help="Leave out tokens below p times the likeliest.")
@click.option(
    "--max-new-tokens", type=click.IntRange(1, MOST_NEW_TOKENS), help="No more than these."
)
@click.option("--seed", type=int, help="Sample i of several is drawn from seed + i.")
@click.option("--num-samples", type=click.IntRange(1, 1000), default=1, show_default=True)
@click.option(
    "--precision",
    type=click.Choice(["model", "bf16", "int8"]),
    default="model",
    show_default=True,
    help="int8 is fastest on a CPU, and a little off.",
)
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output, at the end.")
@click.option("--params", "given_params", type=FILE, show_default="params.yaml, if it is there")
def generate(
    prompt: str | None,
    model: str,
    weights: Any,
    num_samples: int,
    precision: Any,
    as_json: bool,
    given_params: Path | None,
    **given: Any,
) -> None:
    """Continue PROMPT, or standard input, as a model here would.

    Settings that are not given are those of params.yaml's `sample` section.
    """
    # These bring torch along, which `--help` need not wait for.
    from pipeline.generation import decode
    from pipeline.generation.sampling import Sampling
    from pipeline.model.runtime import choose_runtime
    from pipeline.weights import find

    path = given_params or Path("params.yaml")
    params = load_params(path) if given_params or path.exists() else Params()
    given = {name: value for name, value in given.items() if value is not None}
    settings = params.sample.model_copy(update=given)
    samplings = [
        Sampling(
            settings.temperature,
            settings.top_k or None,
            settings.top_p,
            settings.min_p,
            seed=settings.seed + i,
        )
        for i in range(num_samples)
    ]
    text = read_prompt(prompt)
    stream = Stream(text, [sampling.seed for sampling in samplings])
    completions = decode.generate(
        find(model, weights).load(params.gpt2).to(choose_runtime().device),
        [encode(text)] * num_samples,
        samplings,
        settings.max_new_tokens,
        precision=precision,
        on_token=None if as_json else stream,
    )
    if as_json:
        click.echo(_as_json(as_dict(model, text, completions)))
    else:
        stream.finish()


def read_prompt(prompt: str | None) -> str:
    """The argument, or standard input to its end.

    Raises:
        UserError: neither is there, or it is not UTF-8, or too long.
    """
    where, raw = "PROMPT", os.fsencode(prompt or "")
    if prompt in (None, "-"):
        if sys.stdin is None or (prompt is None and sys.stdin.isatty()):
            raise UserError("PROMPT: give one, or pipe a text into the command")
        where, raw = "standard input", sys.stdin.buffer.read(MOST_BYTES + 1).removesuffix(b"\n")
    if len(raw) > MOST_BYTES:
        raise UserError(f"{where}: longer than {MOST_BYTES} bytes")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{where}: not UTF-8 text") from None


class Stream:
    """Shows the first sample as its tokens come; the others follow whole.

    Control characters are escapes in a terminal, which would obey them; a pipe gets the text.
    """

    def __init__(self, prompt: str, seeds: Sequence[int]) -> None:
        self.prompt = prompt
        self.seeds = seeds
        self.decoders = [codecs.getincrementaldecoder("utf-8")("replace") for _ in seeds]
        self.texts = [""] * len(seeds)
        self._begun = False
        # Click takes escape sequences out of what goes into a pipe, but for `color`.
        self._echo = echo if sys.stdout.isatty() else partial(click.echo, color=True)

    def __call__(self, index: int, token: int) -> None:
        # A character may span tokens: it is shown when it is whole.
        text = self.decoders[index].decode(token_bytes(token))
        self.texts[index] += text
        if index == 0:
            self._begin()
            self._echo(text, nl=False)

    def finish(self) -> None:
        rests = [decoder.decode(b"", final=True) for decoder in self.decoders]
        self._begin()
        self._echo(rests[0])
        for seed, text, rest in list(zip(self.seeds, self.texts, rests, strict=True))[1:]:
            click.echo(f"--- seed {seed}")
            self._echo(f"{self.prompt}{text}{rest}")

    def _begin(self) -> None:
        if not self._begun:
            self._echo(self.prompt, nl=False)
            self._begun = True


def _as_json(value: Any) -> str:
    """JSON that can be read in any script, and commands no terminal."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return "".join(c if c == printable(c) else json.dumps(c)[1:-1] for c in text)


def as_dict(model: str, prompt: str, completions: Sequence[CompletionOutput]) -> dict[str, Any]:
    samples = [
        {
            "completion": completion.text,
            "finish_reason": completion.finish_reason,
            "mean_log_prob": completion.mean_log_prob,
            **asdict(completion.sampling),
            "tokens": list(completion.tokens),
        }
        for completion in completions
    ]
    return {"model": model, "prompt": prompt, "samples": samples}
