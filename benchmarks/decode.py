"""How fast text comes: Lossbook's decoder beside the book's and transformers', and the memory.

All continue one prompt by 200 tokens, greedily, with GPT-2 small's architecture and random
weights, in float32 on the CPU; what differs is how. `the book` is its `generate_text_simple` on
its own model, which computes everything anew for each token; it is taken from the package
`llms-from-scratch` where that is installed, else its algorithm runs on Lossbook's model.
Contenders take turns, and a round's times are medians over the rounds.

At a batch of one the limit is reading the weights once a token: `of memory` is the share of the
bandwidth, measured here, that the decoder uses. The grid is that of params.yaml: 4 temperatures
with 4 top-k. Its greedy cells are one row; `16 seeds` are as many rows that are all different.

    python benchmarks/decode.py [--size 1558M] [--rounds 3] [--tokens 200]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from torch import nn

from pipeline.generation.decode import generate
from pipeline.generation.products import Precision
from pipeline.generation.sampling import Sampling
from pipeline.model.gpt import GPT, GPTConfig

PROMPT = [6109, 3626, 6100, 345]  # Every effort moves you
GREEDY = Sampling(temperature=0.0)
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
    for _ in range(arguments.rounds):
        times["memory"].append(min(clock(lambda: probe @ vector) for _ in range(5)))
        for name, contender in contenders.items():
            times[name].append(clock(contender))
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
    one, book = seconds["lossbook, one"], seconds.get("the book")
    print(f"memory is read at {bandwidth / 1e9:.1f} GB/s; a token reads {weights / 1e6:.0f} MB")
    print(f"{'':24}{'seconds':>9}{'tokens/s':>10}{'x the book':>12}{'x one':>8}{'of memory':>11}")
    for name, taken in seconds.items():
        rows = 16 if name.startswith("lossbook, 16") else 1
        line = f"{name:24}{taken:9.2f}{rows * tokens / taken:10.1f}"
        line += f"{book / taken:12.1f}" if book else f"{'':12}"
        line += f"{taken / one:8.2f}"
        if name == "lossbook, one":
            line += f"{weights * tokens / taken / bandwidth:11.0%}"
        print(line)


def all_contenders(size: str, tokens: int) -> Iterator[tuple[str, Contender]]:
    model = random_model(size)

    def lossbook(samplings: list[Sampling], precision: Precision = "model") -> Contender:
        prompts = [PROMPT] * len(samplings)
        # No token is -1: every row runs to its end.
        return lambda: generate(
            model, prompts, samplings, tokens, precision=precision, end_of_text=-1
        )

    if size == "124M":
        yield "the book", the_book(model, tokens)
        yield "transformers", transformers(tokens)
    yield "lossbook, one", lossbook([GREEDY])
    yield "lossbook, one, int8", lossbook([GREEDY], "int8")
    yield "lossbook, one, bf16", lossbook([GREEDY], "bf16")
    yield "lossbook, 16 (grid)", lossbook(GRID)
    if size == "124M":
        yield "lossbook, 16 seeds", lossbook(SEEDS)
        yield "lossbook, 16, int8", lossbook(SEEDS, "int8")


def random_model(size: str) -> GPT:
    """GPT-2's architecture; the small one with a head of its own, as the book trains it."""
    layers, heads, width = SHAPES[size]
    config = GPTConfig(layers, heads, width, context_length=1024, tie_weights=size != "124M")
    with torch.device("meta"):
        model = GPT(config)
    model.to_empty(device="cpu")
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
    with torch.device("meta"):
        model = GPT(GPTConfig(layers, heads, width, tie_weights=True))
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
