"""The book's whole run: the train stage beside the script of chapter 5, from start to end.

Both train a 162M GPT on one story: ten epochs of batches of two windows of 256 tokens, dropout 0.1,
AdamW at 4e-4, an evaluation every 5 steps, a greedy sample of 50 tokens after every epoch, weights
and optimizer saved at the end. Each is a process of its own, timed as a whole, imports included;
they take turns. The book is the package `llms-from-scratch`, with the chapter's own loop, loader
and defaults (an evaluation looks at up to five batches of each split). Lossbook is the stage as
`dvc repro` runs it, with its defaults: tokens on disk, checkpoints, MLflow, a model registered.

    pip install --no-deps llms-from-scratch
    python benchmarks/whole_run.py [--text FILE] [--rounds 1] [--only book lossbook]
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STORY = ROOT / "pipeline/corpus/texts/what-seemed-likely.txt"
PROMPT = "Every effort moves you"


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the book's run beside the train stage.")
    parser.add_argument("--text", type=Path, default=STORY)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    text = arguments.text.resolve()
    if arguments.child:
        train_as_the_book(text)
        return
    names = list(arguments.only)
    if find_spec("llms_from_scratch") is None and "book" in names:
        names.remove("book")
        print("the book is left out: pip install --no-deps llms-from-scratch")
    seconds: dict[str, list[float]] = {name: [] for name in names}
    losses: dict[str, str] = {}
    for _ in range(arguments.rounds):
        for name in names:
            with tempfile.TemporaryDirectory() as folder:
                time_, losses[name] = CONTENDERS[name](Path(folder), text)
            seconds[name].append(time_)
            print(f"{name}: {time_:.0f} s; {losses[name]}", flush=True)
    if len(seconds) == len(CONTENDERS):
        book, ours = (statistics.median(seconds[name]) for name in CONTENDERS)
        print(f"times as fast: {book / ours:.2f}")


def the_book(folder: Path, text: Path) -> tuple[float, str]:
    """Seconds of the whole process, and the last losses that it printed."""
    command = [sys.executable, __file__, "--text", str(text), "--child"]
    started = time.perf_counter()
    done = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True)
    seconds = time.perf_counter() - started
    last = [line for line in done.stdout.splitlines() if line.startswith("Ep ")][-1]
    return seconds, last.partition(": ")[2]


def train_as_the_book(text: Path) -> None:
    """Chapter 5's script, in the folder where it is started."""
    import tiktoken
    import torch
    from llms_from_scratch.ch02 import create_dataloader_v1
    from llms_from_scratch.ch04 import GPTModel
    from llms_from_scratch.ch05 import train_model_simple

    from pipeline.tokens.tokenizer import encoding

    encoding()  # lays the vocabulary where tiktoken looks for it
    config = {
        "vocab_size": 50257,
        "context_length": 256,
        "emb_dim": 768,
        "n_heads": 12,
        "n_layers": 12,
        "drop_rate": 0.1,
        "qkv_bias": False,
    }
    torch.manual_seed(123)
    story = text.read_text(encoding="utf-8")
    middle = int(0.9 * len(story))
    train, val = (
        create_dataloader_v1(
            part,
            batch_size=2,
            max_length=256,
            stride=256,
            drop_last=is_train,
            shuffle=is_train,
            num_workers=0,
        )
        for part, is_train in ((story[:middle], True), (story[middle:], False))
    )
    model = GPTModel(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-4, weight_decay=0.1)
    device, tokenizer = torch.device("cpu"), tiktoken.get_encoding("gpt2")
    train_model_simple(model, train, val, optimizer, device, 10, 5, 5, PROMPT, tokenizer)
    torch.save(
        {"model_state_dict": model.state_dict(), "optimizer_state_dict": optimizer.state_dict()},
        "model_and_optimizer.pth",
    )


def the_stage(folder: Path, text: Path) -> tuple[float, str]:
    """Seconds of `python -m stages.train` in a repository of the defaults, and its last losses."""
    params = (ROOT / "params.yaml").read_text(encoding="utf-8")
    default = "corpus: what-seemed-likely "
    assert default in params, "params.yaml's default corpus"
    (folder / "params.yaml").write_text(params.replace(default, f"corpus: {text} "))
    (folder / ".dvc").mkdir()
    run(folder, "prepare", "--corpus", "data/corpus", "--report", "reports/corpus.json")
    split = ("--corpus", "data/corpus", "--tokens", "data/tokens", "--report", "reports/split.json")
    run(folder, "split", *split)
    written = ("--model", "models/scratch", "--reports", "reports", "--journal", "journals/train")
    started = time.perf_counter()
    run(folder, "train", "--tokens", "data/tokens", *written)
    seconds = time.perf_counter() - started
    with open(folder / "reports/history.csv", encoding="utf-8") as file:
        *_, last = csv.DictReader(file)
    return seconds, "Train loss {train_loss:.5}, Val loss {val_loss:.5}".format(**last)


def run(folder: Path, stage: str, *arguments: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_DISABLE_TELEMETRY": "true"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "-m", f"stages.{stage}", *arguments]
    subprocess.run(command, cwd=folder, env=environment, check=True, stderr=subprocess.DEVNULL)


CONTENDERS: dict[str, Callable[[Path, Path], tuple[float, str]]] = {
    "book": the_book,
    "lossbook": the_stage,
}

if __name__ == "__main__":
    main()
