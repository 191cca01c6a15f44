"""The compare stage on its golden inputs, for its tests; as a program, what it should write.

    python -m tests.helpers.make_golden

runs the stage on a copy of `tests/golden/comparison` and puts the tables that it writes into
`expected/` there. Look at what `git diff` shows before you commit it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import chdir
from pathlib import Path

from click.testing import CliRunner, Result

from stages.compare import main

GOLDEN = Path(__file__).parents[1] / "golden" / "comparison"
TABLES = ("comparison.csv", "comparison.md", "comparison.json")
INPUTS = {
    "corpus": "corpus.json",
    "split": "split.json",
    "train": "train.json",
    "history": "history.csv",
    "evaluate": "evaluate.json",
    "baselines": "baselines",
    "tokens": "tokens",
    "token-losses": "token_losses",
    "parent": "train_run.json",
    "journal": "journals/compare",
}


def compare(sizes: str = "[124M, 1558M]", *more: str) -> Result:
    """Run the stage in the working directory, whose `reports` hold its inputs."""
    Path("params.yaml").write_text(f"gpt2: {{sizes: {sizes}}}\n")
    options = [part for name, file in INPUTS.items() for part in (f"--{name}", f"reports/{file}")]
    return CliRunner().invoke(main, [*options, "--reports", "reports", *more])


def make_golden() -> None:
    """Write `expected/` anew.

    Raises:
        RuntimeError: the stage failed; holds what it said.
    """
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        Path(".dvc").mkdir()
        os.environ |= {"DVC_ROOT": folder, "LOSSBOOK_OFFLINE": "1"}
        shutil.copytree(GOLDEN, "reports")
        done = compare("[124M, 1558M]", "--samples", "reports/samples.json")
        if done.exit_code:
            raise RuntimeError(done.output)
        for name in TABLES:
            shutil.copy(Path("reports", name), GOLDEN / "expected" / name)


if __name__ == "__main__":
    make_golden()
