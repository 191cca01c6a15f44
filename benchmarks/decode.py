"""How fast text comes: Lossbook's decoder beside the book's and transformers', and the memory.

All continue one prompt by 200 tokens, greedily, with GPT-2 small's architecture and random
weights, in float32 on the CPU; what differs is how. `the book` is its `generate_text_simple` on
its own model, which computes everything anew for each token; it is taken from the package
`llms-from-scratch` where that is installed, else its algorithm runs on Lossbook's model.
Contenders take turns, and a round's times are medians over the rounds.

At a batch of one the limit of plain decoding is reading the weights once a token: `of memory` is
tokens a second over what the memory's bandwidth, measured here, would allow. Guessing ahead on
8-bit weights goes beyond: its tokens are the same, several for one reading. The decoder is
prepared, as the peers' models are loaded; `cold` starts from the bare weights. The grid is that
of params.yaml, 4 temperatures with 4 top-k, where the greedy cells are one row; `16 seeds` are as
many rows that are all different.

    python benchmarks/decode.py [--size 1558M] [--rounds 3] [--tokens 200]
"""

from __future__ import annotations

import sys

if sys.path[0].endswith("benchmarks"):  # whose tokenize.py is not Python's
    sys.path.pop(0)

import argparse
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from torch import nn

from pipeline.generation.decode import Decoder
from pipeline.generation.sampling import Sampling
from pipeline.model.gpt import GPT, GPTConfig, unfilled

PROMPT = [6109, 3626, 6100, 345]  # Every effort moves you
ONE = "lossbook, one"
GREEDY = Sampling(temperature=0.0)
DRAWN = Sampling(1.4, 25, seed=123)
GRID = [Sampling(t, k, seed=123) for t in (0.0, 0.7, 1.0, 1.4) for k in (1, 25, 50, None)]
SEEDS = [Sampling(1.4, 25, seed=seed) for seed in range(16)]
SHAPES = {  # layers, heads, width
    "124M": (12, 12, 768),
    "355M": (24, 16, 1024),
    "774M": (36, 20, 1280),
    "1558M": (48, 25, 1600),
}
PROBE = 1 << 28  # floats: 1 GiB, beyond any cache

Contender = Callable[[], object]


def main() -> None:
    arguments = parse()
    print(f"{arguments.size}, {arguments.tokens} tokens, {torch.get_num_threads()} threads")
    contenders = dict(all_contenders(arguments.size, arguments.tokens))
    probe = torch.rand(1 << 14, PROBE >> 14)
    vector = torch.rand(PROBE >> 14)
    times: dict[str, list[float]] = {name: [] for name in ["memory", *contenders]}
    for name, contender in contenders.items():
        if name.startswith("lossbook") and "cold" not in name:
            contender()  # makes the copies of the weights
    for _ in range(arguments.rounds):
        times["memory"].append(min(clock(lambda: probe @ vector) for _ in range(5)))
        for name, contender in contenders.items():
            times[name].append(clock(contender))
            print(f"  {name}: {times[name][-1]:.2f} s", file=sys.stderr, flush=True)
    report(arguments.size, arguments.tokens, times)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure decoding beside its peers.")
    parser.add_argument("--size", choices=SHAPES, default="124M")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=200)
    return parser.parse_args()


def report(size: str, tokens: int, times: dict[str, list[float]]) -> None:
    seconds = {name: statistics.median(values) for name, values in times.items()}
    bandwidth = PROBE * 4 / seconds.pop("memory")
    weights = bytes_a_token(size)
    one, book, peer = seconds[ONE], seconds.get("the book"), seconds.get("transformers")
    print(f"memory: {bandwidth / 1e9:.1f} GB/s; the weights of a token: {weights / 1e6:.0f} MB")
    heads = ("seconds", "tokens/s", "the book", "transf.", "one", "of memory")
    print(f"{'':24}" + "".join(f"{head:>11}" for head in heads))
    for name, taken in seconds.items():
        rows = 16 if ", 16" in name else 1
        cells = [f"{taken:.2f}", f"{rows * tokens / taken:.1f}"]
        cells += ["" if base is None else f"{base / taken:.1f} x" for base in (book, peer)]
        cells.append(f"{taken / one:.2f}")
        cells.append(f"{weights * tokens / taken / bandwidth:.0%}" if rows == 1 else "")
        print(f"{name:24}" + "".join(f"{cell:>11}" for cell in cells))


def all_contenders(size: str, tokens: int) -> Iterator[tuple[str, Contender]]:
    model = random_model(size)
    if size == "124M":
        yield "the book", the_book(model, tokens)
        yield "transformers", transformers(tokens)
    decoder = Decoder(model).prepare()
    yield ONE, lossbook(decoder, [GREEDY], tokens)
    yield "lossbook, one, sampled", lossbook(decoder, [DRAWN], tokens)
    yield "lossbook, one, plain", lossbook(Plain(model), [GREEDY], tokens)
    yield "lossbook, one, int8", lossbook(Decoder(model, "int8"), [GREEDY], tokens)
    yield "lossbook, 16 (grid)", lossbook(decoder, GRID, tokens)
    if size == "124M":
        yield "lossbook, 16 seeds", lossbook(decoder, SEEDS, tokens)
        yield "lossbook, 16, int8", lossbook(Decoder(model, "int8"), SEEDS, tokens)
        yield "lossbook, one, cold", cold(model, [GREEDY], tokens)
        yield "lossbook, 16, cold", cold(model, GRID, tokens)


class Plain(Decoder):
    """Without guesses: a token for each reading of the weights."""

    def can_guess(self, steps: int) -> bool:
        return False


def lossbook(decoder: Decoder, samplings: list[Sampling], tokens: int) -> Contender:
    prompts = [PROMPT] * len(samplings)
    # No token is -1: every row runs to its end.
    return lambda: decoder.generate(prompts, samplings, tokens, end_of_text=-1)


def cold(model: GPT, samplings: list[Sampling], tokens: int) -> Contender:
    def run() -> None:
        lossbook(Decoder(model), samplings, tokens)()

    return run


def random_model(size: str) -> GPT:
    """GPT-2's architecture; the small one with a head of its own, as the book trains it."""
    layers, heads, width = SHAPES[size]
    config = GPTConfig(layers, heads, width, context_length=1024, tie_weights=size != "124M")
    model = unfilled(config).to_empty(device="cpu")
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.02)
        else:
            nn.init.constant_(parameter, float(name.endswith("weight")))
    return model.eval()


def bytes_a_token(size: str) -> int:
    """The float32 weights that a step reads: all but embeddings, of which it reads one row."""
    layers, heads, width = SHAPES[size]
    model = unfilled(GPTConfig(layers, heads, width, tie_weights=True))
    return sum(p.nbytes for name, p in model.named_parameters() if not name.startswith("wpe"))


def the_book(model: GPT, tokens: int) -> Contender:
    """`generate_text_simple`, or, where the package is missing, what it does."""
    prompt = torch.tensor([PROMPT])
    try:
        from llms_from_scratch.ch04 import GPTModel, generate_text_simple
    except ImportError:
        return lambda: recompute(model, prompt, tokens)
    config = model.config
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
    return lambda: generate_text_simple(book, prompt, tokens, config.context_length)


def recompute(model: GPT, tokens: torch.Tensor, count: int) -> torch.Tensor:
    """Logits of the whole context for every token, of which the last one's are used."""
    with torch.no_grad():
        for _ in range(count):
            logits = model(tokens[:, -model.config.context_length :])[:, -1]
            tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], dim=1)
    return tokens


def transformers(tokens: int) -> Contender:
    """GPT2LMHeadModel with its key-value cache."""
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config()).eval()
    prompt = torch.tensor([PROMPT])
    settings = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False}
    mask = torch.ones_like(prompt)
    return lambda: model.generate(prompt, attention_mask=mask, pad_token_id=50256, **settings)


def clock(task: Contender) -> float:
    start = time.perf_counter()
    with torch.no_grad():
        task()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
