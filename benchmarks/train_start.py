"""How soon a training takes its first step, and what it holds after: few tokens beside very many.

The very same training, a tiny model, on two token files, each in a process of its own: the one that
a story gives, and the one that gigabytes of text give (or `--folder`, the `data/tokens` that split
wrote). `start` counts from where the process has imported everything to the end of the first
optimizer step: opening and checking the tokens, making the model, and the evaluation before the
first step, of 8 windows, are in it. Memory is the process's resident set, after the first step and
after the last, and its largest in between.

Then the time of a batch of 8 random windows of 256 tokens, 100 million in all, by the number of
shards that they lie in: the process's own time, the least of 20 rounds that take turns.

    python benchmarks/train_start.py [--millions 5 500] [--folder DIR] [--steps 500]
        [--shards 10 1000]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
import psutil
import torch
from train_throughput import write_tokens

from pipeline.params import Params
from pipeline.split import writer
from pipeline.tokens.windows import Windows
from pipeline.training.events import NullObserver, Step
from pipeline.training.job import TrainingJob

MODEL = {"n_layer": 1, "n_head": 2, "n_embd": 32, "context_length": 64}
SHARDED = 100_000_000  # tokens: 200 MB
TRAIN = {"batch_size": 4, "eval_every": 10**6, "eval_windows": 8, "epochs": 1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--millions", type=int, nargs="+", default=[5, 500], help="of tokens")
    parser.add_argument("--folder", type=Path, help="tokens that split wrote, instead")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--shards", type=int, nargs="*", default=[10, 1000])
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train:
        print(json.dumps(train(arguments.train, arguments.steps)))
        return
    print(f"{'tokens':>16}{'start':>10}{'first step':>14}{'last step':>14}{'largest':>14}")
    with tempfile.TemporaryDirectory() as place:
        folders = [arguments.folder] if arguments.folder else []
        if not folders:
            folders = [Path(place) / str(millions) for millions in arguments.millions]
            for folder, millions in zip(folders, arguments.millions, strict=True):
                write_tokens(folder / "train", millions * 10**6)
                write_tokens(folder / "val", 100_000)
        for folder in folders:
            show(run_apart(folder, arguments.steps))
        for count, seconds in batch_seconds(Path(place), arguments.shards).items():
            print(f"{count:>16,} shards{seconds * 1e6:>10.1f} µs a batch")


def show(found: dict[str, float]) -> None:
    memory = "".join(f"{found[name] / 1e6:>11,.1f} MB" for name in ("first", "last", "largest"))
    print(f"{found['tokens']:>16,}{found['start']:>8.2f} s{memory}", flush=True)


def batch_seconds(place: Path, counts: list[int]) -> dict[int, float]:
    """The time of a batch, by how many shards the same number of tokens lie in."""
    windows = {}
    for count in counts:
        folder = place / f"{count}-shards"
        with patch.object(writer, "SHARD", SHARDED // count):
            write_tokens(folder / "train", SHARDED)
        windows[count] = Windows.open(folder / "train", 256)
    some = np.random.default_rng(0).integers(0, SHARDED // 256 - 1, (400, 8))
    found: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(20):
        for count in counts:
            started = time.process_time()
            for indices in some:
                windows[count].batch(indices)
            found[count].append((time.process_time() - started) / len(some))
    return {count: min(seconds) for count, seconds in found.items()}


def run_apart(folder: Path, steps: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--train", str(folder), "--steps", str(steps)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(ended.stdout)
    return found


class Watch(NullObserver):
    """The time of the first step, and the memory after each."""

    def __init__(self) -> None:
        self.process = psutil.Process()
        self.started = time.perf_counter()
        self.seconds = 0.0
        self.memory: list[int] = []

    def on_step(self, step: Step) -> None:
        self.seconds = self.seconds or time.perf_counter() - self.started
        self.memory.append(self.process.memory_info().rss)


def train(folder: Path, steps: int) -> dict[str, float]:
    params = Params.model_validate({"model": MODEL, "train": {**TRAIN, "max_steps": steps}})
    watch = Watch()
    job = TrainingJob.open(params, folder)
    job.trainer(watch).run()
    return {
        "tokens": len(job.train_windows.tokens),
        "start": watch.seconds,
        "first": watch.memory[0],
        "last": watch.memory[-1],
        "largest": max(watch.memory),
    }


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()
