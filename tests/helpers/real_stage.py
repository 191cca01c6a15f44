"""A stage as a process of its own, in a repository of a few params and a short story."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
STORY = ROOT / "pipeline/corpus/texts/what-seemed-likely.txt"


def start(folder: Path, *command: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_DISABLE_TELEMETRY": "true"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    return subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)


def stage(folder: Path, name: str, *arguments: str) -> subprocess.Popen[str]:
    return start(folder, sys.executable, "-m", f"stages.{name}", *arguments)


def said(process: subprocess.Popen[str], status: int = 0) -> str:
    """What it wrote to standard error; it must end with `status`."""
    _, lines = process.communicate(timeout=200)
    assert process.returncode == status, lines
    return lines


def prepare_tokens(folder: Path, params: str) -> None:
    """Make `folder` a repository of `params`, with the story's tokens in `data/tokens`."""
    (folder / ".dvc").mkdir()
    (folder / "params.yaml").write_text(params)
    (folder / "story.txt").write_text(STORY.read_text()[:6000])
    said(stage(folder, "prepare", "--corpus", "data/corpus", "--report", "c.json"))
    split = ("--corpus", "data/corpus", "--tokens", "data/tokens", "--report", "s.json")
    said(stage(folder, "split", *split))
