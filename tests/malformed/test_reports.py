"""Reports that other stages wrote, tampered with, as their readers meet them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.arena import COMMANDS, ODD, Arena, Case, swapped
from tests.helpers.malformed import json_mutations, mutated

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

# file: the commands that read it, and how many mutations of it each meets
READ = {
    "reports/corpus.json": {"compare": 30},
    "reports/split.json": {"compare": 25},
    "reports/train.json": {"compare": 20},
    "reports/evaluate.json": {"compare": 30},
    "reports/baselines/124M.json": {"compare": 30},
    "reports/token_losses/scratch/meta.json": {"compare": 15},
    "reports/token_losses/124M/meta.json": {"compare": 15},
    "reports/sampling_grid.json": {"compare": 25},
    "reports/train_run.json": {"compare": 8, "evaluate": 8, "sample": 8, "runs": 8},
    "reports/gpt2/124M.json": {"baseline": 25},
    "data/tokens/train/meta.json": {"train": 12, "evaluate": 8, "sample": 8, "baseline": 6},
    "data/tokens/val/meta.json": {"train": 12},
}
RUNS = ("lossbook", "runs", "--json")
HEAD = "step,epoch,tokens_seen,train_loss,val_loss,learning_rate"
HISTORIES = {
    "empty": "",
    "a head alone": HEAD + "\n",
    "no head": "0,0.0,0,10.9,10.9,0.0004\n",
    "another head": "a,b,c\n1,2,3\n",
    "a column less": "step,epoch,tokens_seen,train_loss,val_loss\n0,0,0,1,1\n",
    "a column twice": f"step,{HEAD}\n0,0,0,0,1,1,1\n",
    "words": f"{HEAD}\nzero,none,nothing,high,low,fast\n",
    "empty cells": f"{HEAD}\n,,,,,\n,,,,,\n",
    "nan": f"{HEAD}\n0,nan,0,nan,nan,nan\n1,nan,9,nan,nan,nan\n",
    "infinity": f"{HEAD}\n0,inf,inf,inf,-inf,inf\n1,1,1,1,1,1\n",
    "huge": f"{HEAD}\n0,1e308,9{'0' * 300},1e308,1e308,1e308\n1,1,1,1,1,1\n",
    "denormal": f"{HEAD}\n0,5e-324,1,5e-324,5e-324,5e-324\n1,1,1,1,1,1\n",
    "5000 digits": f"{HEAD}\n{'9' * 5000},1,1,1,1,1\n",
    "negative": f"{HEAD}\n-1,-1,-1,-1,-1,-1\n-2,-2,-2,-2,-2,-2\n",
    "too many cells": f"{HEAD}\n0,1,2,3,4,5,6,7,8\n0,0,0,1,1,1\n",
    "too few cells": f"{HEAD}\n0\n1,2\n",
    "an open quote": f'{HEAD}\n0,"1,2,3,4,5\n1,1,1,1,1,1\n',
    "escapes": f"{HEAD}\n\x1b[31m,1,1,1,1,1\n",
    "escapes in the head": f"\x1b[31m{HEAD}\n0,1,1,1,1,1\n",
    "markup": f"{HEAD}\n<script>,1,1,1,1,1\n",
    "nul": f"{HEAD}\n0\0,1,1,1,1,1\n",
    "semicolons": HEAD.replace(",", ";") + "\n0;1;2;3;4;5\n",
    "decreasing steps": f"{HEAD}\n9,1,9,1,1,1\n3,1,3,1,1,1\n",
    "one row twice": f"{HEAD}\n0,0,0,9,9,1\n0,0,0,9,9,1\n",
    "one row": f"{HEAD}\n0,0.0,0,10.9,10.9,0.0004\n",
    "a long cell": f"{HEAD}\n{'x' * 1_000_000},1,1,1,1,1\n",
    "many columns": ",".join(f"c{i}" for i in range(20_000)) + "\n",
    "many rows": f"{HEAD}\n" + "0,0.0,0,10.9,10.9,0.0004\n" * 100_000,
    "byte order mark": f"\ufeff{HEAD}\n0,0.0,0,10.9,10.9,0.0004\n",
    "fractions of steps": f"{HEAD}\n0.5,0.0,0.5,10.9,10.9,0.0004\n1.5,1,3,1,1,1\n",
    "booleans": f"{HEAD}\nTrue,False,True,True,False,True\n",
    "dates": f"{HEAD}\n2024-01-01,1,1,1,1,1\n",
    "hex": f"{HEAD}\n0x10,1,1,1,1,1\n",
    "zero tokens": f"{HEAD}\n0,0.0,0,10.9,10.9,0.0\n1,0.0,0,10.9,10.9,0.0\n",
}


def cases(finished: Path) -> Iterator[Case]:
    repo = finished / "repo"
    for command in ("train", "evaluate", "sample", "baseline", "compare"):
        yield Case(f"{command}: unharmed", COMMANDS[command], fails=False)
    for file, readers in READ.items():
        valid = json.loads((repo / file).read_text())
        name = Path(file).name
        for command, count in readers.items():
            argv = RUNS if command == "runs" else COMMANDS[command]
            for what, text in json_mutations(valid, f"{file} {command}", count):
                change = swapped(file, text.encode("utf-8", "surrogatepass"))
                yield Case(f"{command}: {file}: {what}", argv, change, (name, "reports/"))
        command = next(iter(readers))
        for odd in ODD if "val" not in file else ():
            yield Case(
                f"{command}: {file} is {odd}",
                COMMANDS[command],
                swapped(file, None, odd),
                (name,),
                fails=None if "baselines" in file or "token_losses" in file else True,
            )
    history = "reports/history.csv"
    for what, text in HISTORIES.items():
        yield Case(
            f"compare: {history}: {what}",
            COMMANDS["compare"],
            swapped(history, text.encode()),
            ("history.csv",),
        )
    for index in range(25):
        what, data = mutated((repo / history).read_bytes(), f"history {index}")
        yield Case(
            f"compare: {history}: {index}: {what}",
            COMMANDS["compare"],
            swapped(history, data),
            ("history.csv",),
        )
    for odd in ODD:
        yield Case(
            f"compare: {history} is {odd}",
            COMMANDS["compare"],
            swapped(history, None, odd),
            ("history.csv",),
            fails=True,
        )


def test_reports(arena: Arena, finished: Path) -> None:
    arena.check("reports", cases(finished), finished)
