"""A repository that is what a user has after `git clone`, with a tiny model."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
TINY = {
    "prepare.corpus": "story.txt",
    "model.n_layer": "1",
    "model.n_head": "2",
    "model.n_embd": "16",
    "model.context_length": "32",
    "train.epochs": "1",
    "train.batch_size": "4",
    "sample.max_new_tokens": "8",
    "gpt2.sizes": "[124M]",
    "gpt2.source": "../gpt2",
}

FOREIGN = ("DVC_", "MLFLOW_", "MAKE", "MFLAGS")  # set by what the tests run in


def outside() -> dict[str, str]:
    """This process's environment as a user's shell would have it."""
    return {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}


class Repository:
    """A clone of what Lossbook ships, with a tiny model and a story of 2,500 characters.

    GPT-2's weights are looked for in the folder `gpt2` beside it, where there are none.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder.parent / "gpt2").mkdir(exist_ok=True)
        for name in ("pipeline", "stages"):
            shutil.copytree(ROOT / name, folder / name)  # what is compiled too: it saves time
        for name in ("dvc.yaml", "params.yaml"):
            shutil.copy(ROOT / name, folder)
        (folder / ".gitignore").write_text(
            "/mlflow.db*\n/mlartifacts/\n/.lossbook/\n__pycache__/\n"
        )
        story = (ROOT / "pipeline/corpus/texts/what-seemed-likely.txt").read_text()
        (folder / "story.txt").write_text(story[:2500])
        for key, value in TINY.items():
            self.set(key, value)
        self.run("git", "init", "--quiet")
        self.run("git", "config", "user.email", "tests@example.org")
        self.run("git", "config", "user.name", "tests")
        self.run("dvc", "init", "--quiet")
        (folder / ".dvc/config").write_text("[core]\n    autostage = true\n")
        shutil.copy(ROOT / ".dvcignore", folder)
        self.commit()

    def set(self, key: str, value: str) -> None:
        """Change a line of params.yaml; `key` is `section.name`."""
        path = self.folder / "params.yaml"
        section, name = key.split(".")
        line = rf"(?m)(^{section}:.*\n(?:  .*\n)*?  {name}:).*$"
        text, count = re.subn(line, rf"\1 {value}", path.read_text(), count=1)
        assert count == 1, key
        path.write_text(text)

    def run(
        self, *command: str, check: bool = True, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command there; `variables` are its environment's beside a user's own."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            env={
                **outside(),
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
                "DVC_NO_ANALYTICS": "1",
                "LOSSBOOK_CACHE": str(self.folder.parent / "cache"),
                "OMP_NUM_THREADS": "1",
                **variables,
            },
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def commit(self) -> None:
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--message", "state")

    def repro(self, *stages: str, **variables: str) -> list[str]:
        """Run what has changed, up to `stages` where they are named; the stages that ran."""
        return stages_run(self.run("dvc", "repro", *stages, **variables).stdout)

    def sweep(self, jobs: int, **variables: str) -> str:
        """Run the queue with so many workers; its status when it is empty."""
        self.run("dvc", "queue", "start", "--jobs", str(jobs), **variables)
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline:
            ended = self._ended()
            status = self.run("dvc", "queue", "status").stdout
            if "Queued" not in status and "Running" not in status:
                return status
            # The question takes DVC a second that the queue's workers have use for.
            patience = time.monotonic() + 10
            while self._ended() == ended and time.monotonic() < patience:
                time.sleep(0.1)
        raise AssertionError(status)

    def _ended(self) -> set[Path]:
        """Where DVC keeps how each experiment of the queue ended."""
        return set(self.folder.glob(".dvc/tmp/exps/celery/result/*"))

    def read(self, name: str) -> dict:
        return json.loads((self.folder / "reports" / name).read_text())


def stages_run(output: str) -> list[str]:
    """The stages that DVC says it ran, those that look outside left out."""
    ran = re.findall(r"Running stage '([\w@]+)'", output)
    return [s for s in ran if s != "identify" and not s.startswith("fetch_gpt2")]
