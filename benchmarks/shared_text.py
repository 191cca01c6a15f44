"""How fast `split` finds what validation shares with training, beside a set of n-grams.

The tokens are drawn at random by Zipf's law, in documents of 1,000; each twentieth validation
document holds a passage out of training, and each fiftieth is a copy. `set` is what n-gram overlap
scripts do: every run of eight training tokens, as a tuple, in a Python set, and those of validation
looked up. `split` is `mark_shared`, from tokens on disk to the mask on disk, on as many threads as
there are cores. Both find the same tokens. Each runs in a process of its own, so that the peak of
its memory is its own; they take turns.

`copies` is the rest of it: the MinHash digests of as many tokens' words, and their comparison.

    python benchmarks/shared_text.py [--tokens 10] [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from io import BytesIO
from pathlib import Path

import numpy as np

from pipeline.corpus.near_copies import digests
from pipeline.corpus.workers import cores, start_workers
from pipeline.split.copies import Documents, Rows, near_copies
from pipeline.split.shared import mark_shared
from pipeline.split.writer import TokenWriter, seal
from pipeline.tokens.ngrams import NGRAM
from pipeline.tokens.tokenizer import END_OF_TEXT
from pipeline.tokens.windows import Tokens

DOCUMENT = 1000  # tokens
WORDS = 750  # of a document; what a thousand tokens of English are


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=10, help="millions, a tenth for validation")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contender", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contender:
        name, folder = arguments.contender
        print(json.dumps(CONTENDERS[name](Path(folder))))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_tokens(Path(folder), arguments.tokens * 1_000_000)
        results: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
        for _ in range(arguments.rounds):
            for name, found in results.items():
                found.append(measured_apart(name, folder))
    print(f"{arguments.tokens} million tokens, {cores()} threads")
    for name, found in results.items():
        seconds = statistics.median(one["seconds"] for one in found)
        peak = max(one["peak"] for one in found)
        print(f"  {name:<8} {seconds:8.2f} s {peak / 1e6:8.0f} MB   {found[0]['found']:,} found")
    assert results["set"][0]["found"] == results["split"][0]["found"]


def measured_apart(name: str, folder: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--contender", name, folder]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def write_tokens(folder: Path, size: int) -> None:
    dice = np.random.default_rng(0)
    documents = size // DOCUMENT
    tokens = np.minimum(dice.zipf(1.2, size), END_OF_TEXT - 1).astype(np.uint16)
    tokens = tokens.reshape(documents, DOCUMENT)
    tokens[:, -1] = END_OF_TEXT
    train, val = tokens[: documents * 9 // 10], tokens[documents * 9 // 10 :]
    val[::20, 100:200] = train[: len(val[::20]), 300:400]
    val[10::50] = train[: len(val[10::50])]
    for name, part in (("train", train), ("val", val)):
        writer = TokenWriter(folder / name)
        writer.write(part.reshape(-1), part.size, part.size, len(part))
        held = writer.close(name, "random tokens", "0" * 64)
        seal(held.folder, held.meta)


def by_set(folder: Path) -> dict[str, float]:
    train, val = (tokens_of(folder / name).tolist() for name in ("train", "val"))
    started = time.perf_counter()
    runs = set(zip(*(train[place:] for place in range(NGRAM)), strict=False))
    mask = bytearray(len(val))
    for start, run in enumerate(zip(*(val[place:] for place in range(NGRAM)), strict=False)):
        if run in runs and END_OF_TEXT not in run:
            mask[start : start + NGRAM] = b"\1" * NGRAM
    return {"seconds": time.perf_counter() - started, "found": sum(mask), "peak": peak()}


def by_split(folder: Path) -> dict[str, float]:
    started = time.perf_counter()
    train, val = (Tokens.open(folder / name) for name in ("train", "val"))
    with start_workers("threads") as workers:
        found = mark_shared(train, val, folder / "mask", workers)
    return {"seconds": time.perf_counter() - started, "found": found, "peak": peak()}


def by_copies(folder: Path) -> dict[str, float]:
    """Words for tokens, so that there are as many shingles as a text of that size has."""
    texts = {}
    for name in ("train", "val"):
        documents = tokens_of(folder / name).reshape(-1, DOCUMENT)[:, :WORDS]
        texts[name] = [" ".join(map(str, words)) for words in documents.tolist()]
    held = {name: Documents(BytesIO()) for name in texts}
    started = time.perf_counter()
    with start_workers("threads") as workers:
        for name, documents in held.items():
            parts = [texts[name][start : start + 100] for start in range(0, len(texts[name]), 100)]
            for found in workers.in_order(digests, parts):
                ones = np.ones(len(found), np.int64)
                documents.add(Rows(ones, found, ones.astype(bool)))
        number, _ = near_copies(held["train"], held["val"], workers)
    return {"seconds": time.perf_counter() - started, "found": number, "peak": peak()}


def tokens_of(folder: Path) -> np.ndarray:
    tokens = Tokens.open(folder)
    return tokens.read(0, len(tokens))


def peak() -> int:
    import resource

    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


CONTENDERS = {"set": by_set, "split": by_split, "copies": by_copies}

if __name__ == "__main__":
    main()
