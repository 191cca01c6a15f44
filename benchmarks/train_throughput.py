"""Training steps per second: Lossbook beside the book's code, transformers and nanoGPT's loop.

Everyone trains a GPT of the same size on random tokens: 124M, context 256, batch 2, dropout 0.1,
AdamW, by default. Each contender runs in a process of its own, and they take turns. A round's time
is the mean of its steps, of all contenders alike: the device is waited for before the second step
and after the last. The first step, which touches memory for the first time and may compile, is left
out. What is shown is the median over the rounds. Lossbook runs as `dvc repro` runs it: the trainer,
tokens on disk, an observer.

- `the book` is the package `llms-from-scratch`: its GPTModel and the chapter's step, fp32.
- `transformers` is GPT2LMHeadModel, fused AdamW; bf16 by autocast. Its head is tied, so its
  optimizer has 38.6M weights less to update; so has the next.
- `nanoGPT` is written here after nanoGPT's model and loop: biasless linear layers and a padded
  vocabulary, SDPA, fused AdamW, autocast; compiled on a GPU.

`share` is the model's FLOPs (6 a weight of every product, attention in full) over what the machine
does in pure products of one MLP's size, twelve matrices in turns, in that precision; `MFU` is
their share of the GPU's peak on paper.

    pip install --no-deps llms-from-scratch
    python benchmarks/train_throughput.py [--device cuda] [--size 124M] [--batch-size 2]
        [--context 256] [--dropout 0.1] [--steps 6] [--rounds 2] [--only NAME ...] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.gpt2.sizes import SIZES
from pipeline.model.gpt import GPT, GPT2_VOCAB_SIZE, GPTConfig
from pipeline.model.runtime import Runtime
from pipeline.split.writer import SHARD, TokenWriter, seal
from pipeline.training.events import NullObserver
from pipeline.training.throughput import flops_per_token, peak_flops

LEARNING_RATE, WEIGHT_DECAY = 4e-4, 0.1
SHAPES = {
    name: {"n_layer": h.n_layer, "n_head": h.n_head, "n_embd": h.n_embd}
    for name, h in ((name, size.hparams) for name, size in SIZES.items())
} | {"tiny": {"n_layer": 2, "n_head": 2, "n_embd": 64}}

Step = Callable[[Tensor, Tensor], None]


@dataclass(frozen=True)
class Setting:
    """What everyone trains on."""

    device: torch.device
    size: str
    batch_size: int
    context: int
    dropout: float
    steps: int

    @property
    def shape(self) -> dict[str, int]:
        return SHAPES[self.size]

    @property
    def tokens(self) -> int:
        return self.batch_size * self.context

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """One batch (B, T) and its targets for the warm-up, then one per step."""
        generator = torch.Generator().manual_seed(123)
        shape = self.batch_size, self.context + 1
        for _ in range(self.steps + 1):
            tokens = torch.randint(GPT2_VOCAB_SIZE, shape, generator=generator).to(self.device)
            yield tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    def autocast(self, precision: str) -> torch.autocast:
        return Runtime(self.device, bf16=precision == "bf16").autocast()  # type: ignore[return-value]

    def synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def main(given: list[str] | None = None) -> None:
    given = sys.argv[1:] if given is None else given
    arguments = parse(given)
    setting = Setting(
        torch.device(arguments.device),
        arguments.size,
        arguments.batch_size,
        arguments.context,
        arguments.dropout,
        arguments.steps,
    )
    if arguments.child:
        print(json.dumps(measured(arguments.child, setting)))
        return
    names = [name for name in CONTENDERS if name in (arguments.only or CONTENDERS)]
    if find_spec("llms_from_scratch") is None and "the book, fp32" in names:
        names.remove("the book, fp32")
        print("the book is left out: pip install --no-deps llms-from-scratch")
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for _ in range(arguments.rounds):
        for name in names:
            here = arguments.one_process
            found[name].append(measured(name, setting) if here else child(name, given))
    report(setting, arguments.rounds, found, arguments.json)


def parse(given: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure training steps beside peers' steps.")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", choices=SHAPES, default="124M")
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--steps", type=int, default=6, help="measured in a round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--only", nargs="+", choices=CONTENDERS, help="by default all; `share` needs the products"
    )
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    parser.add_argument("--one-process", action="store_true", help="quick, and less exact")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args(given)


def measured(name: str, setting: Setting) -> dict[str, Any]:
    """Seconds of the contender's steps, and the most memory of a GPU that it took."""
    seconds = CONTENDERS[name](setting)
    on_gpu = setting.device.type == "cuda"
    memory = torch.cuda.max_memory_allocated(setting.device) if on_gpu else None
    return {"seconds": seconds, "gpu_memory": memory}


def child(name: str, given: list[str]) -> dict[str, Any]:
    """`measured` in a process of its own."""
    command = [sys.executable, __file__, *given, "--child", name]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return cast(dict[str, Any], json.loads(output.splitlines()[-1]))


def report(
    setting: Setting, rounds: int, found: dict[str, list[dict[str, Any]]], file: Path | None
) -> None:
    """The machine's product rates, then a line a contender; the same numbers as JSON."""
    with torch.device("meta"):
        model = GPT(GPTConfig(**setting.shape, context_length=setting.context))
    flops = flops_per_token(model)
    median = {
        name: statistics.median(time_ for one in of_name for time_ in one["seconds"])
        for name, of_name in found.items()
    }
    rates = {
        p: products_flops(setting) / median[f"products, {p}"]
        for p in ("fp32", "bf16")
        if f"products, {p}" in median
    }
    peak = peak_flops(torch.cuda.get_device_name()) if setting.device.type == "cuda" else None
    print(
        f"{setting.size}, context {setting.context}, batch {setting.batch_size}, "
        f"dropout {setting.dropout}, AdamW, "
        f"{setting.device}, {torch.get_num_threads()} threads; {rounds} rounds of {setting.steps} "
        f"steps"
    )
    for precision, rate in rates.items():
        print(f"products, {precision}: {rate / 1e9:.0f} GFLOP/s")
    print(f"{'':20}{'s per step':>12}{'tokens/s':>10}{'x the book':>12}{'share':>8}{'MFU':>7}")
    book = median.get("the book, fp32")
    rows = {}
    for name, time_ in median.items():
        if name.startswith("products"):
            continue
        speed = setting.tokens / time_
        rows[name] = {
            "seconds_a_step": time_,
            "tokens_a_second": speed,
            "times_the_book": book and book / time_,
            "share_of_products": flops * speed / rates[name[-4:]] if name[-4:] in rates else None,
            "mfu": flops * speed / peak if peak and name.endswith("bf16") else None,
            "gpu_memory": found[name][0]["gpu_memory"],
        }
        row = rows[name]
        print(
            f"{name:20}{time_:10.3f}{speed:10.0f}{_or_blank(row['times_the_book'], '.2f'):>12}"
            f"{_or_blank(row['share_of_products'], '.0%'):>8}{_or_blank(row['mfu'], '.0%'):>7}"
        )
    if file:
        numbers = {"product_flops": rates, "flops_a_token": flops, "contenders": rows}
        file.write_text(json.dumps(numbers, indent=2) + "\n")


def _or_blank(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


class Clock:
    """Mean seconds of a step, by contender and round: the device is waited for at both ends only.

    In between a contender may queue one step while the device computes another.
    """

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._started = 0.0
        self.seconds: list[float] = []

    def start(self) -> None:
        self._setting.synchronise()
        self._started = time.perf_counter()

    def stop(self) -> None:
        self._setting.synchronise()
        self.seconds.append((time.perf_counter() - self._started) / self._setting.steps)


def timed(step: Step, setting: Setting) -> list[float]:
    """Mean seconds of a step, but for the first."""
    clock = Clock(setting)
    first, *others = setting.batches()
    step(*first)
    clock.start()
    for inputs, targets in others:
        step(inputs, targets)
    clock.stop()
    return clock.seconds


def products(setting: Setting, precision: str) -> list[float]:
    """Seconds of twelve products of a batch with an MLP's matrices, again and again."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    rows = torch.randn(setting.tokens, setting.shape["n_embd"], device=setting.device, dtype=dtype)
    layers, width = setting.shape["n_layer"], setting.shape["n_embd"]
    shape = layers, 4 * width, width
    matrices = torch.randn(shape, device=setting.device, dtype=dtype).unbind()

    def step(*_: Tensor) -> None:
        for matrix in matrices:
            rows @ matrix.T

    return [time_ for _ in range(10) for time_ in timed(step, setting)]


def products_flops(setting: Setting) -> float:
    return setting.shape["n_layer"] * 2.0 * setting.tokens * 4 * setting.shape["n_embd"] ** 2


def the_book(setting: Setting, precision: str) -> list[float]:
    from llms_from_scratch.ch04 import GPTModel

    config = {
        "vocab_size": GPT2_VOCAB_SIZE,
        "context_length": setting.context,
        "emb_dim": setting.shape["n_embd"],
        "n_heads": setting.shape["n_head"],
        "n_layers": setting.shape["n_layer"],
        "drop_rate": setting.dropout,
        "qkv_bias": False,
    }
    model = GPTModel(config).to(setting.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)

    def step(inputs: Tensor, targets: Tensor) -> None:
        optimizer.zero_grad()
        logits = model(inputs)
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        optimizer.step()
        loss.item()  # the chapter's loop keeps count of its losses

    return timed(step, setting)


def transformers(setting: Setting, precision: str) -> list[float]:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        **setting.shape,
        n_positions=setting.context,
        resid_pdrop=setting.dropout,
        embd_pdrop=setting.dropout,
        attn_pdrop=setting.dropout,
        use_cache=False,
    )
    model = GPT2LMHeadModel(config).to(setting.device).train()
    optimizer = fused_adamw(model)

    def step(inputs: Tensor, targets: Tensor) -> None:
        with setting.autocast(precision):
            loss = model(input_ids=inputs, labels=inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return timed(step, setting)


def nano_gpt(setting: Setting, precision: str) -> list[float]:
    model: nn.Module = NanoGPT(setting).to(setting.device).train()
    optimizer = fused_adamw(model)
    if setting.device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        model = cast(nn.Module, torch.compile(model))

    def step(inputs: Tensor, targets: Tensor) -> None:
        with setting.autocast(precision):
            loss = model(inputs, targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return timed(step, setting)


def fused_adamw(model: nn.Module) -> torch.optim.AdamW:
    groups = [
        {"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.95), fused=True)


class NanoBlock(nn.Module):
    def __init__(self, heads: int, width: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.ln_1, self.ln_2 = (nn.LayerNorm(width, bias=False) for _ in range(2))
        self.c_attn = nn.Linear(width, 3 * width, bias=False)
        self.c_proj = nn.Linear(width, width, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width, bias=False),
            nn.GELU(),
            nn.Linear(4 * width, width, bias=False),
            nn.Dropout(dropout),
        )
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        q, k, v = (
            part.view(B, T, self.heads, C // self.heads).transpose(1, 2)
            for part in self.c_attn(self.ln_1(x)).split(C, dim=2)
        )
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout, is_causal=True)
        x = x + self.drop(self.c_proj(y.transpose(1, 2).reshape(B, T, C)))
        return cast(Tensor, x + self.mlp(self.ln_2(x)))


class NanoGPT(nn.Module):
    def __init__(self, setting: Setting) -> None:
        super().__init__()
        layers, heads, width = setting.shape.values()
        self.wte, self.wpe = nn.Embedding(50304, width), nn.Embedding(setting.context, width)
        self.drop = nn.Dropout(setting.dropout)
        self.h = nn.ModuleList(NanoBlock(heads, width, setting.dropout) for _ in range(layers))
        self.ln_f = nn.LayerNorm(width, bias=False)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        x = self.drop(self.wte(tokens) + self.wpe.weight[: tokens.shape[1]])
        for block in self.h:
            x = block(x)
        logits = F.linear(self.ln_f(x), self.wte.weight)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))


def lossbook(setting: Setting, precision: str) -> list[float]:
    """The trainer between the start of its second step and the end of its last."""
    from pipeline.params import Params
    from pipeline.training.job import TrainingJob

    train: dict[str, Any] = {
        "batch_size": setting.batch_size,
        "max_steps": setting.steps + 1,
        "eval_every": 10**6,
        "device": str(setting.device),
        "precision": precision,
    }
    model = {**setting.shape, "context_length": setting.context, "dropout": setting.dropout}
    clock = Clock(setting)
    with tempfile.TemporaryDirectory() as folder:
        for split, windows in (("train", 64 * setting.batch_size), ("val", 1)):
            write_tokens(Path(folder, split), windows * setting.context + 1)
        params = Params.model_validate({"model": model, "train": train})
        trainer = TrainingJob.open(params, Path(folder)).trainer(NullObserver())
        begin, end = trainer.reset_gradients, trainer.evaluate

        def reset_gradients() -> None:
            if trainer.step == 1:
                clock.start()
            begin()

        def evaluate() -> None:
            if trainer.step:
                clock.stop()
            end()

        trainer.reset_gradients, trainer.evaluate = reset_gradients, evaluate  # type: ignore[method-assign]
        trainer.run()
    return clock.seconds


def write_tokens(folder: Path, tokens: int) -> None:
    """A split of random tokens."""
    dice = np.random.default_rng(123)
    folder.parent.mkdir(exist_ok=True)
    writer = TokenWriter(folder)
    while writer.tokens < tokens:
        size = min(tokens - writer.tokens, SHARD // 10)
        writer.write(dice.integers(0, GPT2_VOCAB_SIZE, size, np.uint16), size, size, 0)
    seal(folder, writer.close(folder.name, "random tokens", "0" * 64).meta)


RUNNERS = {
    "products": products,
    "the book": the_book,
    "transformers": transformers,
    "nanoGPT": nano_gpt,
    "Lossbook": lossbook,
}
CONTENDERS: dict[str, Callable[[Setting], list[float]]] = {
    f"{name}, {precision}": lambda setting, run=run, p=precision: run(setting, p)  # type: ignore[misc]
    for name, run in RUNNERS.items()
    for precision in ("fp32", "bf16")
    if (name, precision) != ("the book", "bf16")
}

if __name__ == "__main__":
    main()
