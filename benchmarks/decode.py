"""Decoding speed: Lossbook's decoder beside the book's and transformers', and the memory.

All continue one prompt by 200 tokens, greedily, with GPT-2 small's architecture and random
weights (or, for Lossbook, those of `--model`), in float32 on the CPU. `the book` is its
`generate_text_simple` on its own model, which recomputes everything for each token; it is in the
package `llms-from-scratch`, and left out where that is missing.
Contenders take turns, and a round's times are medians over the rounds.

At a batch of one the limit of plain decoding is reading the weights once per token: `of memory` is
tokens per second over what the memory's bandwidth, measured here, would allow. Speculative decoding
with drafts from 8-bit weights goes beyond: its tokens are the same, several for one reading. The
decoder is prepared, as the peers' models are loaded; `cold` starts from the bare weights. `int8`
and `bf16` round, and are not exact. The grid is that of params.yaml, 4 temperatures with 4 top-k,
where the greedy cells are one sequence; `16 seeds` are as many that are all different.

    pip install --no-deps llms-from-scratch
    python benchmarks/decode.py [--size 1558M] [--precision bf16] [--model FOLDER] [--rounds 3]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn
from train_throughput import SHAPES

from pipeline.generation.decode import Decoder
from pipeline.generation.sampling import Sampling
from pipeline.generation.step_weights import StepWeights
from pipeline.model.gpt import GPT, GPTConfig, meta_model
from pipeline.model.saved import load_model

PROMPT = [6109, 3626, 6100, 345]  # Every effort moves you
ONE = "lossbook, one"
GREEDY = Sampling(temperature=0.0)
DRAWN = Sampling(1.4, 25, seed=123)
GRID = [Sampling(t, k, seed=123) for t in (0.0, 0.7, 1.0, 1.4) for k in (1, 25, 50, None)]
SEEDS = [Sampling(1.4, 25, seed=seed) for seed in range(16)]
PROBE = 1 << 28  # floats: 1 GiB, beyond any cache

WARM_UP = 32  # tokens: copies of the weights pay from fewer on

Contender = Callable[[int], object]  # continues the prompt by so many tokens


def main() -> None:
    arguments = parse()
    model = load_model(arguments.model) if arguments.model else random_model(arguments)
    print(
        f"{arguments.size}, {arguments.precision}, {arguments.tokens} tokens, "
        f"{torch.get_num_threads()} threads"
    )
    contenders = dict(all_contenders(model, peers=arguments.size == "124M"))
    probe = torch.rand(1 << 14, PROBE >> 14)
    vector = torch.rand(PROBE >> 14)
    times: dict[str, list[float]] = {name: [] for name in ["memory", *contenders]}
    for name, contender in contenders.items():
        if "cold" not in name:
            contender(min(WARM_UP, arguments.tokens))  # makes the copies of the weights
    for _ in range(arguments.rounds):
        times["memory"].append(min(clock(lambda: probe @ vector) for _ in range(5)))
        for name, contender in contenders.items():
            times[name].append(clock(partial(contender, arguments.tokens)))
            print(f"  {name}: {times[name][-1]:.2f} s", file=sys.stderr, flush=True)
    report(bytes_per_token(model), arguments.tokens, times)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure decoding beside its peers.")
    parser.add_argument("--size", choices=SHAPES, default="124M")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--model", type=Path, help="A trained model's folder.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=200)
    return parser.parse_args()


def report(weights: int, tokens: int, times: dict[str, list[float]]) -> None:
    seconds = {name: statistics.median(values) for name, values in times.items()}
    bandwidth = PROBE * 4 / seconds.pop("memory")
    one, book, peer = seconds[ONE], seconds.get("the book"), seconds.get("transformers")
    print(f"memory: {bandwidth / 1e9:.1f} GB/s; the weights of a token: {weights / 1e6:.0f} MB")
    heads = ("seconds", "tokens/s", "the book", "transf.", "one", "of memory")
    print(f"{'':26}" + "".join(f"{head:>11}" for head in heads))
    for name, taken in seconds.items():
        batch = 16 if ", 16" in name else 1
        cells = [f"{taken:.2f}", f"{batch * tokens / taken:.1f}"]
        cells += ["" if base is None else f"{base / taken:.1f} x" for base in (book, peer)]
        cells.append(f"{taken / one:.2f}")
        cells.append(f"{weights * tokens / taken / bandwidth:.0%}" if batch == 1 else "")
        print(f"{name:26}" + "".join(f"{cell:>11}" for cell in cells))


def all_contenders(model: GPT, *, peers: bool) -> Iterator[tuple[str, Contender]]:
    fp32 = model.wte.weight.dtype == torch.float32
    if peers and fp32:
        if find_spec("llms_from_scratch") is None:
            print("the book is left out: pip install --no-deps llms-from-scratch")
        else:
            yield "the book", the_book(model.config)
        yield "transformers", transformers()
    decoder = Decoder(model).prepare()
    yield ONE, lossbook(decoder, [GREEDY])
    yield "lossbook, one, sampled", lossbook(decoder, [DRAWN])
    yield "lossbook, one, plain", lossbook(without_drafts(model), [GREEDY])
    if fp32:
        eight_bit = Decoder(model, "int8")
        yield "lossbook, one, int8", lossbook(eight_bit, [GREEDY])
    yield "lossbook, 16 (grid)", lossbook(decoder, GRID)
    if peers and fp32:
        yield "lossbook, 16 seeds", lossbook(decoder, SEEDS)
        yield "lossbook, 16, int8", lossbook(eight_bit, SEEDS)
        rounded = Decoder(model, "bf16")
        yield "lossbook, one, bf16", lossbook(rounded, [GREEDY])
        yield "lossbook, 16 (grid), bf16", lossbook(rounded, GRID)
        yield "lossbook, 16, bf16", lossbook(rounded, SEEDS)
        yield "lossbook, one, cold", cold(model, [GREEDY])
        yield "lossbook, 16, cold", cold(model, GRID)


class NoDrafts(StepWeights):
    """Without speculative decoding: one token for each reading of the weights."""

    def can_draft(self, steps: int) -> bool:
        return False


def without_drafts(model: GPT) -> Decoder:
    decoder = Decoder(model)
    decoder.weights = NoDrafts(model, "model")
    return decoder


def lossbook(decoder: Decoder, samplings: list[Sampling]) -> Contender:
    prompts = [PROMPT] * len(samplings)
    # No token is -1: every request runs to its end.
    return lambda tokens: decoder.generate(prompts, samplings, tokens, end_of_text=-1)


def cold(model: GPT, samplings: list[Sampling]) -> Contender:
    def run(tokens: int) -> object:
        return lossbook(Decoder(model), samplings)(tokens)

    return run


def random_model(arguments: argparse.Namespace) -> GPT:
    """GPT-2's architecture; the small one with a head of its own, as the book trains it."""
    tied = arguments.size != "124M"
    model = meta_model(GPTConfig(**SHAPES[arguments.size], context_length=1024, tie_weights=tied))
    dtype = torch.float32 if arguments.precision == "fp32" else torch.bfloat16
    model = model.to(dtype).to_empty(device="cpu")
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.02)
        else:
            nn.init.constant_(parameter, float(name.endswith("weight")))
    return model.eval()


def bytes_per_token(model: GPT) -> int:
    """The weights that a step reads: all but embeddings, of which it reads one row."""
    read = [p for name, p in model.named_parameters() if name.split(".")[0] not in ("wte", "wpe")]
    head = model.head_weight.nbytes if model.config.tie_weights else 0
    return sum(p.nbytes for p in read) + head


def the_book(config: GPTConfig) -> Contender:
    """`generate_text_simple` on the book's own model."""
    from llms_from_scratch.ch04 import GPTModel, generate_text_simple

    prompt = torch.tensor([PROMPT])
    book = GPTModel(
        {
            "vocab_size": config.vocab_size,
            "context_length": config.context_length,
            "emb_dim": config.n_embd,
            "n_heads": config.n_head,
            "n_layers": config.n_layer,
            "drop_rate": 0.1,
            "qkv_bias": False,
        }
    ).eval()
    return lambda tokens: generate_text_simple(book, prompt, tokens, config.context_length)


def transformers() -> Contender:
    """GPT2LMHeadModel with its key-value cache."""
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config()).eval()
    prompt = torch.tensor([PROMPT])
    mask = torch.ones_like(prompt)

    def run(tokens: int) -> object:
        length = {"max_new_tokens": tokens, "min_new_tokens": tokens}
        settings = {"do_sample": False, "pad_token_id": 50256, **length}
        return model.generate(prompt, attention_mask=mask, **settings)

    return run


def clock(task: Callable[[], object]) -> float:
    start = time.perf_counter()
    with torch.no_grad():
        task()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
