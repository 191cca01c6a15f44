"""How fast `split` turns a corpus into tokens, beside tiktoken alone with as many threads.

`tiktoken` is `encode_ordinary_batch` over the same documents, out of memory and into memory: the
time to read and write is not counted, nor that to load the encoding. `split` is the whole of it:
compressed Parquet in, shards, statistics and `meta.json` out. Each runs in a process of its own,
so that the peak of its memory is its own. The speed of a machine drifts within minutes, so the two
take turns of a second, one stopped while the other runs, and its clock with it. Times are medians
over the rounds.

The text is made of the packaged story's sentences, or `--text FILE`'s, in random order, with
numbers among them: documents of some 20 kB. Sizes are in millions of bytes.

    python benchmarks/split_throughput.py [--sizes 100 2000] [--rounds 3] [--text FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

from pipeline.corpus.corpora import TEXTS
from pipeline.corpus.documents import Document
from pipeline.corpus.parquet import Corpus, CorpusWriter
from pipeline.corpus.workers import cores
from pipeline.system.files import folder_aside

STORY = TEXTS / "what-seemed-likely.txt"
SENTENCES = 250  # a document
HELD = 16_000_000  # characters that tiktoken is given at once
TURN = 1.0  # seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100], help="millions of bytes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scheduler", default="threads")
    parser.add_argument("--text", type=Path, default=STORY, help="whose sentences are taken")
    parser.add_argument("--corpora", type=Path, help="where corpora are kept between calls")
    parser.add_argument("--contender", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contender:
        name, corpus, stood = arguments.contender
        print(json.dumps(CONTENDERS[name](Path(corpus), arguments.scheduler, Clock(Path(stood)))))
        return
    print(f"{cores()} threads; split on {arguments.scheduler}")
    with tempfile.TemporaryDirectory() as folder:
        for size in arguments.sizes:
            corpus = (arguments.corpora or Path(folder)) / str(size)
            if not corpus.exists():
                write_corpus(corpus, size * 1_000_000, arguments.text)
            compare(corpus, arguments)


def compare(corpus: Path, arguments: argparse.Namespace) -> None:
    size = Corpus.open(corpus).meta.bytes
    results: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
    for _ in range(arguments.rounds):
        for name, result in in_turns(corpus, arguments.scheduler).items():
            results[name].append(result)
    print(f"{size / 1e6:,.0f} MB")
    speeds = {}
    for name, found in results.items():
        seconds = statistics.median(one["seconds"] for one in found)
        peak = max(one["peak"] for one in found)
        speeds[name] = size / seconds
        print(
            f"  {name:<10} {seconds:8.2f} s {size / seconds / 1e6:7.2f} MB/s {peak / 1e6:6.0f} MB"
        )
        assert len({one["tokens"] for one in found}) == 1
    print(f"  split is at {speeds['split'] / speeds['tiktoken']:.1%} of tiktoken")


def in_turns(corpus: Path, scheduler: str) -> dict[str, dict[str, float]]:
    """Of each contender: seconds, tokens and its peak memory in bytes."""
    with tempfile.TemporaryDirectory() as folder:
        runs = {name: Run(name, corpus, scheduler, Path(folder) / name) for name in CONTENDERS}
        try:
            for run in cycle(runs.values()):
                run.go_on(TURN)
                if all(run.result for run in runs.values()):
                    return {name: run.result for name, run in runs.items()}
        finally:
            for run in runs.values():
                run.kill()
    raise AssertionError("`cycle` ended")


class Run:
    """A contender in a process group of its own, which stands still between its turns."""

    def __init__(self, name: str, corpus: Path, scheduler: str, stood: Path) -> None:
        self.result: dict[str, float] = {}
        self._stood = stood  # a file for its clock: the seconds for which it was stopped
        self._seconds = 0.0
        command = [sys.executable, __file__, "--scheduler", scheduler]
        self._process = subprocess.Popen(
            [*command, "--contender", name, str(corpus), str(stood)],
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._stop()

    def go_on(self, seconds: float) -> None:
        """A turn, unless it has ended."""
        if self.result:
            return
        self._seconds += time.perf_counter() - self._stopped
        self._stood.write_text(repr(self._seconds))
        os.killpg(self._process.pid, signal.SIGCONT)
        try:
            printed, _ = self._process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self._stop()
            return
        if self._process.returncode:
            raise SystemExit(self._process.returncode)  # it has said why
        self.result = json.loads(printed)

    def kill(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _stop(self) -> None:
        os.killpg(self._process.pid, signal.SIGSTOP)
        self._stopped = time.perf_counter()


class Clock:
    """Seconds of this process's turns."""

    def __init__(self, stood: Path) -> None:
        self._stood = stood

    def __call__(self) -> float:
        while True:  # until no turn has ended between two looks
            stood, now = self._stood.read_text(), time.perf_counter()
            if stood == self._stood.read_text():
                return now - float(stood)


def by_tiktoken(corpus: Path, _scheduler: str, clock: Clock) -> dict[str, float]:
    from pipeline.tokens.tokenizer import encoding

    encode = encoding().encode_ordinary_batch
    seconds, tokens = 0.0, 0
    held: list[str] = []

    def work() -> None:
        nonlocal seconds, tokens
        started = clock()
        found = encode(held, num_threads=cores())
        seconds += clock() - started
        tokens += sum(map(len, found))
        held.clear()

    for row in Corpus.open(corpus).rows():
        held.append(row.text)
        if sum(map(len, held)) > HELD:
            work()
    work()
    return {"seconds": seconds, "tokens": tokens, "peak": peak()}


def by_split(corpus: Path, scheduler: str, clock: Clock) -> dict[str, float]:
    from pipeline.split.split import split
    from pipeline.tokens.tokenizer import encoding

    encoding()
    with tempfile.TemporaryDirectory(dir=corpus.parent) as folder:
        started = clock()
        report = split(corpus, Path(folder) / "tokens", 0.9, scheduler=scheduler)
        seconds = clock() - started
    # As tiktoken counts them: without the ends of text.
    tokens = sum(counts.tokens - counts.documents for counts in report.splits.values())
    return {"seconds": seconds, "tokens": tokens, "peak": peak()}


def peak() -> int:
    import resource

    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def write_corpus(folder: Path, size: int, text: Path) -> None:
    """A corpus of at least `size` bytes, the same each time."""
    dice = random.Random(0)
    sentences = re.split(r"(?<=[.?!])\s+", text.read_text(encoding="utf-8"))
    with folder_aside(folder) as aside:
        writer = CorpusWriter(aside)
        while writer.bytes < size:
            drawn = dice.choices(sentences, k=SENTENCES)
            document = " ".join(
                f"{dice.randrange(10**6)} {s}" if dice.random() < 0.1 else s for s in drawn
            )
            name = f"document {writer.documents}"
            writer.write(Document(name, name, name, [document]))
        writer.close(f"{size / 1e6:.0f} MB of sentences")


CONTENDERS: dict[str, Callable[[Path, str, Clock], dict[str, float]]] = {
    "tiktoken": by_tiktoken,
    "split": by_split,
}

if __name__ == "__main__":
    main()
