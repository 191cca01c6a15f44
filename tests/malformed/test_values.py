"""Settings that are allowed, or nearly, and extreme, as the stages meet them on a tiny corpus."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.arena import COMMANDS, Arena, Case
from tests.helpers.malformed import Raw, dump

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

LARGE = (10**6, 2 * 10**6, 10**9, 10**12, 2**63 - 1, 2**63, 10**30)
TEXTS = (
    "", " ", "\x1b[31mred\x07", "one\nError: two", "lone \ud800", "nul\0", "<|endoftext|>",
    "<script>1</script>", "{{ 7 * 7 }}",
    "\u202egnp", "word " * 20_000, "a" * 100_000, "| a | table |", "![](x)", "$(touch X)",
    "💥" * 50, "\t", "`", "~nosuchuser", "%s%n", "\ufeff", "\u2028",
)  # fmt: skip

# stage: section.key: values
VALUES: dict[str, dict[str, tuple[Any, ...]]] = {
    "train": {
        "model.n_layer": (*LARGE, 300),
        "model.n_head": (3, 8, 10**9),
        "model.n_embd": (2, 10**6, 10**9, 10**12, 2**62),
        "model.context_length": (2, 500, 5000, 10**9, 2**62),
        "model.dropout": (0.999999999, 5e-324),
        "train.batch_size": (10**9, 10**12, 2**62, "auto", 10**30),
        "train.gradient_accumulation": (10**9, 2**62),
        "train.learning_rate": (10.0, 5e-324, 1e-300),
        "train.weight_decay": (10.0, 5e-324),
        "train.warmup_steps": (10**9, 2**62, 10**30),
        "train.decay_steps": (5e-324, 1e300, 1e18),
        "train.min_learning_rate": (4e-4, 5e-324),
        "train.grad_clip": (5e-324, 1e308, 1e-40),
        "train.eval_every": (10**9, 2**62, 10**30),
        "train.eval_batches": (10**9, 2**62, 10**30),
        "train.eval_windows": (1, 10**9, 2**62, 10**30),
        "train.checkpoint_every": (1, 10**9, 2**62, 10**30),
        "train.early_stopping": (1, 2**62, 10**30),
        "train.processes": (10**6, 2**62, 4096),
        "train.device": ("cuda", "cuda:99", "mps", f"cuda:{'9' * 30}"),
        "train.sharding": ("full",),
        "train.replicas": (2, 1000, 2**62),
        "train.epochs": (10**30, 2**62),
        "train.init_from": ("", " ", "gpt2-", "gpt2-9B", "gpt2-124M", "scratch ", "trained",
            "models/scratch", ".", "/", "nowhere", "~nosuchuser", "\x1b[31m", "n" * 5000,
            "p/" * 2500, "nul\0", "0" * 32, "story.txt", "000000", "%s", "lone \ud800"),
        "train.sample_prompt": TEXTS,
        "seed": (0, 2**63 - 1),
        "tracking.experiment": TEXTS,
    },
    "split": {
        "split.train_fraction": (5e-324, 1e-9, 1 - 1e-16, 0.999999, 0.5),
        "split.test_fraction": (1e-9, 0.09999999, 0.1),
    },
    "prepare": {"prepare.text_field": TEXTS[:6], "prepare.scheduler": ("tcp://127.0.0.1:9",)},
    "evaluate": {"evaluate.batch_size": LARGE, "compare.prompts": ([], ["p"] * 300,
        *([t] for t in TEXTS)), "compare.max_new_tokens": (17, 10**12)},
    "sample": {
        "sample.prompts": ([], ["The"] * 50, *([t] for t in TEXTS)),
        "sample.max_new_tokens": (20, 10**9, 10**12, 2**62, 10**30),
        "sample.temperature": (5e-324, 1e-38, 1000.0, 1e-300),
        "sample.top_k": (1, 50257, 50258, 10**9, 2**62, 10**30),
        "sample.top_p": (5e-324, 1.0, 1e-40),
        "sample.min_p": (5e-324, 0.9999999999),
        "sample.seed": (2**63 - 1, 2**62),
        "sample.grid": ({"temperature": [0.0] * 3, "top_k": [1, 1]}, {"temperature": [1000.0,
            5e-324], "top_k": [10**12]}, {"temperature": [0.5] * 2000, "top_k": [1] * 2000}),
    },
    "compare": {"compare.prompts": ([], ["The", "The"], ["<script>"]), "gpt2.sizes": ([], ["124M",
        "355M"], ["124M", "124M"]), "seed": (2**63 - 1,)},
    "baseline": {"gpt2.precision": ("bf16",), "evaluate.batch_size": (10**12,),
        "compare.max_new_tokens": (100, 10**12), "model.context_length": (33, 10**9),
            "gpt2.source": ("nowhere", "~nosuchuser", "", "nul\0", "p/" * 2500, "/dev/null")},
    "fetch_gpt2": {
        "gpt2.source": ("nowhere", "~nosuchuser/x", "", " ", "nul\0", "p/" * 2500, "/dev/null",
            "\x1b[31m", "story.txt", "http://127.0.0.1:9", "lone \ud800", "OpenAI"),
        "gpt2.mirror": ("", " ", "x", "http://", "http://[::1", "http://127.0.0.1:9",
            "http://127.0.0.1:99999", "http://127.0.0.1:x", "ftp://x", "file:///x",
            "http://\x1b[31m", "http://a b", "http://" + "h" * 5000, "http://nul\0", "http://..",
            "http://user:secret@127.0.0.1:9", "http://xn--", "http://\ud800"),
    },
    "identify": {"train.init_from": ("gpt2-124M", "nowhere", "start", "~nosuchuser", "nul\0",
        "/dev/null", "p/" * 2500), "prepare.corpus": ("~nosuchuser/x", "nul\0", "n" * 5000)},
}  # fmt: skip


def _set(key: str, value: object) -> Callable[[Path], None]:
    def change(repo: Path) -> None:
        path = repo / "params.yaml"
        values = json.loads(path.read_text())
        *section, name = key.split(".")
        (values.setdefault(section[0], {}) if section else values)[name] = value
        if key == "gpt2.mirror":
            values["gpt2"]["source"] = "openai"
        path.write_text(dump(values))

    return change


def cases() -> Iterator[Case]:
    for stage, keys in VALUES.items():
        for key, values in keys.items():
            for index, value in enumerate(values):
                given = Raw(value) if isinstance(value, Raw) else value
                name = f"{stage} {key} {index} {ascii(value)[:60]}"
                names = (key.rpartition(".")[2], "params.yaml")
                if key in (
                    "train.learning_rate",
                    "train.grad_clip",
                    "train.decay_steps",
                    "train.weight_decay",
                    "train.min_learning_rate",
                ):
                    names = (*names, "loss")
                if stage == "split":
                    names = (*names, "split.")
                replaces = ("reports/identity.json",) if stage == "identify" else ()
                yield Case(name, COMMANDS[stage], _set(key, given), names, replaces=replaces)
    generate = ("lossbook", "generate", "The")
    for key in ("sample.temperature", "sample.top_p", "sample.max_new_tokens", "sample.seed"):
        for value in VALUES["sample"][key]:
            yield Case(
                f"generate {key} {value!r}",
                generate,
                _set(key, value),
                (key.rpartition(".")[2],),
                shows_text=True,
            )


def test_values(arena: Arena, finished: Path) -> None:
    arena.check("values", cases(), finished)
