"""From OpenAI's checkpoint to a model in memory: Lossbook's reader beside the book's.

A checkpoint in the size's exact layout, with random weights, is written by TensorFlow into a
temporary folder; before each reading the file is read through, so that the page cache is warm for
all. Every reading is a process of its own; contenders take turns. Seconds are the best of the
rounds, since others' work on the machine only ever adds to them; peaks are the worst: what the
process holds at most, less what it held when everything was imported. `the book` is the package
`llms-from-scratch`: `load_gpt2_params_from_tf_ckpt`, `GPTModel`, `load_weights_into_gpt`.

The book's way to 1558M takes 20 GB of memory; `--without-book` leaves it out, as does a missing
package.

    pip install --no-deps llms-from-scratch
    python benchmarks/load_gpt2.py [--sizes 355M 1558M] [--rounds 3] [--without-book]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import psutil

from pipeline.gpt2.release import DATA, HPARAMS, PREFIX
from pipeline.gpt2.sizes import SIZES

ROOT = Path(__file__).parents[1]
CONTENDERS = ("the book", "lossbook", "lossbook, bf16")
RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss

Numbers = dict[str, float]
Load = Callable[[Path], int]  # the bytes of the weights that were loaded


def main() -> None:
    arguments = parse()
    if arguments.child:
        print(json.dumps(read(arguments.child, arguments.folder)))
    else:
        without_book = arguments.without_book
        if find_spec("llms_from_scratch") is None and not without_book:
            without_book = True
            print("the book is left out: pip install --no-deps llms-from-scratch")
        for size in arguments.sizes:
            compare(size, arguments.rounds, CONTENDERS[without_book:])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure loading beside the book's loader.")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["355M"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--without-book", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def compare(size: str, rounds: int, contenders: tuple[str, ...]) -> None:
    runs: dict[str, list[Numbers]] = {name: [] for name in contenders}
    with tempfile.TemporaryDirectory() as folder:
        writer = [sys.executable, "-m", "tests.helpers.checkpoints", folder, size]
        subprocess.run(writer, cwd=ROOT, check=True)
        for _ in range(rounds):
            for name in contenders:
                warm(Path(folder, DATA))
                runs[name].append(json.loads(child(name, folder)))
    report(size, rounds, runs)


def child(what: str, folder: str, *more: str) -> str:
    command = [sys.executable, __file__, "--child", what, "--folder", folder, *more]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def report(size: str, rounds: int, runs: dict[str, list[Numbers]]) -> None:
    times = ("import", "load", "cpu")
    found = {
        name: {k: (min if k in times else max)(run[k] for run in of_name) for k in of_name[0]}
        for name, of_name in runs.items()
    }
    book = found.get("the book", {}).get("load")
    print(f"{size}: {SIZES[size].hparams.data_bytes / 1e9:.2f} GB in fp32, {rounds} rounds")
    print(f"{'':16}{'load s':>8}{'x faster':>10}{'cpu s':>8}{'import s':>10}", end="")
    print(f"{'peak GB':>9}{'x weights':>11}")
    for name, best in found.items():
        faster = f"{book / best['load']:.1f}" if book else ""
        print(
            f"{name:16}{best['load']:8.2f}{faster:>10}{best['cpu']:8.2f}{best['import']:10.1f}"
            f"{best['peak'] / 1e9:9.2f}{best['peak'] / best['weights']:11.2f}",
            flush=True,
        )


def warm(path: Path) -> None:
    with open(path, "rb") as file:
        while file.read(1 << 24):
            pass


def read(contender: str, folder: Path) -> Numbers:
    """Import and load; seconds for each, and bytes for the latter."""
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}
    if sys.platform == "linux":  # where memory is short, end this process and no other
        Path("/proc/self/oom_score_adj").write_text("1000")
    started = time.perf_counter()
    load = the_book() if contender == "the book" else lossbook(contender)
    imported, cpu = time.perf_counter(), time.process_time()
    held = psutil.Process().memory_info().rss
    weights = load(folder)
    loaded = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT - held
    return {
        "import": imported - started,
        "load": loaded - imported,
        "cpu": time.process_time() - cpu,
        "peak": peak,
        "weights": weights,
    }


def lossbook(contender: str) -> Load:
    import tensorflow as tf
    import torch

    from pipeline.gpt2 import tf_checkpoint

    tf.train.load_checkpoint  # noqa: B018 - its modules are imported when it is named
    dtype = torch.bfloat16 if contender.endswith("bf16") else torch.float32

    def load(folder: Path) -> int:
        model = tf_checkpoint.load(folder, dtype)
        return sum(p.numel() * p.element_size() for p in model.parameters())

    return load


def the_book() -> Load:
    import tensorflow as tf
    from llms_from_scratch.ch04 import GPTModel
    from llms_from_scratch.ch05 import load_gpt2_params_from_tf_ckpt, load_weights_into_gpt

    tf.train.load_checkpoint  # noqa: B018

    def load(folder: Path) -> int:
        hparams = json.loads((folder / HPARAMS).read_text())
        config = {
            "vocab_size": hparams["n_vocab"],
            "context_length": hparams["n_ctx"],
            "emb_dim": hparams["n_embd"],
            "n_heads": hparams["n_head"],
            "n_layers": hparams["n_layer"],
            "drop_rate": 0.0,
            "qkv_bias": True,
        }
        params = load_gpt2_params_from_tf_ckpt(str(folder / PREFIX), hparams)
        model = GPTModel(config)
        load_weights_into_gpt(model, params)
        # its head is a second copy of the embedding, which is no weight of GPT-2's
        total = sum(p.numel() * p.element_size() for p in model.parameters())
        head: int = model.out_head.weight.numel() * 4
        return total - head

    return load


if __name__ == "__main__":
    main()
