"""`lossbook generate`: text from any model here, shown as it comes."""

from __future__ import annotations

import codecs
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.commands.console import Command
from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.generation.decode import Completion
    from pipeline.generation.sampling import Sampling

FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(cls=Command)
@click.argument("prompt", required=False)
@click.option(
    "--model",
    default="trained",
    show_default=True,
    help="trained, a folder, a run's id, or gpt2-SIZE.",
)
@click.option("--weights", type=click.Choice(["last", "best"]), default="last", show_default=True)
@click.option("--temperature", type=float, help="0 takes the likeliest token each time.")
@click.option("--top-k", type=int, help="Draw from the k likeliest tokens; 0 for all.")
@click.option("--top-p", type=float, help="Draw from the likeliest tokens that make up p.")
@click.option("--min-p", type=float, help="Leave out tokens below p times the likeliest.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), help="Stop there at the latest.")
@click.option("--seed", type=int, help="Sample i of several is drawn from seed + i.")
@click.option("--num-samples", type=click.IntRange(min=1), default=1, show_default=True)
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
    max_new_tokens: int | None,
    num_samples: int,
    precision: Any,
    as_json: bool,
    given_params: Path | None,
    **given: Any,
) -> None:
    """Continue PROMPT, or standard input, as a model here would.

    Settings that are not given are those of params.yaml's `sample` section.
    """
    from pipeline.generation import decode
    from pipeline.model.runtime import choose_runtime
    from pipeline.params import Params, load_params
    from pipeline.tokens.tokenizer import encode
    from pipeline.weights import find

    params = given_params or Path("params.yaml")
    chosen = load_params(params) if given_params or params.exists() else Params()
    settings = chosen.sample
    samplings = samplings_of(settings.model_dump(), given, num_samples)
    text = read_prompt(prompt)
    stream = Stream(text, num_samples)
    completions = decode.generate(
        find(model, weights).load(chosen.gpt2).to(choose_runtime().device),
        [encode(text)] * num_samples,
        samplings,
        max_new_tokens or settings.max_new_tokens,
        precision=precision,
        on_token=None if as_json else stream,
    )
    if as_json:
        click.echo(json.dumps(as_dict(model, text, completions), indent=2, ensure_ascii=False))
    else:
        stream.finish(samplings)


def samplings_of(settings: dict[str, Any], given: dict[str, Any], count: int) -> list[Sampling]:
    """What the options say, the rest from `settings`; one seed after the other.

    Raises:
        UserError: a setting lies outside its range.
    """
    from pipeline.generation.sampling import Sampling

    names = ("temperature", "top_k", "top_p", "min_p", "seed")
    chosen = {n: settings[n] if given[n] is None else given[n] for n in names}
    chosen["top_k"] = chosen["top_k"] or None
    return [Sampling(**{**chosen, "seed": chosen["seed"] + i}) for i in range(count)]


def read_prompt(prompt: str | None) -> str:
    """The argument, or standard input to its end.

    Raises:
        UserError: neither is there, or the input is not UTF-8.
    """
    if prompt is not None and prompt != "-":
        return prompt
    if prompt is None and sys.stdin.isatty():
        raise UserError("PROMPT: give one, or pipe a text into the command")
    try:
        return sys.stdin.buffer.read().decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError:
        raise UserError("standard input: not UTF-8 text") from None


class Stream:
    """Shows the first sample as its tokens come; the others follow whole."""

    def __init__(self, prompt: str, count: int) -> None:
        self.prompt = prompt
        self.decoders = [codecs.getincrementaldecoder("utf-8")("replace") for _ in range(count)]
        self.texts = [""] * count
        self._show: Callable[[str], None] = lambda text: click.echo(text, nl=False)
        self._begun = False

    def __call__(self, row: int, token: int) -> None:
        from pipeline.tokens.tokenizer import token_bytes

        # A character may span tokens: it is shown when it is whole.
        text = self.decoders[row].decode(token_bytes(token))
        self.texts[row] += text
        if row == 0:
            self._begin()
            self._show(text)

    def _begin(self) -> None:
        if not self._begun:
            self._show(self.prompt)
            self._begun = True

    def finish(self, samplings: Sequence[Sampling]) -> None:
        rests = [decoder.decode(b"", final=True) for decoder in self.decoders]
        self._begin()
        click.echo(rests[0])
        for i in range(1, len(samplings)):
            click.echo(f"--- seed {samplings[i].seed}")
            click.echo(f"{self.prompt}{self.texts[i]}{rests[i]}")


def as_dict(model: str, prompt: str, completions: Sequence[Completion]) -> dict[str, Any]:
    from dataclasses import asdict

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
