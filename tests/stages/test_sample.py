"""sample, through its command, into a real MLflow store; and `lossbook generate` beside it."""

from __future__ import annotations

import json
import os
import sys
from contextlib import chdir
from importlib import import_module
from pathlib import Path
from subprocess import PIPE, Popen

import pytest
from click.testing import CliRunner, Result

from pipeline.cli import main as lossbook

PARAMS = """
prepare: {corpus: story.txt}
model: {n_layer: 1, n_head: 2, n_embd: 16, context_length: 64}
gpt2: {sizes: []}
sample:
  prompts: [Every effort moves you, He said]
  max_new_tokens: 8
  grid: {temperature: [0.0, 1.4], top_k: [1, 25, null]}
"""
STORY = Path(__file__).parents[2] / "pipeline/corpus/texts/what-seemed-likely.txt"


def invoke(command: str, *arguments: str) -> Result:
    return CliRunner().invoke(import_module(f"stages.{command}").main, list(arguments))


def sample(reports: str = "reports") -> Result:
    return invoke(
        "sample",
        *("--tokens", "data/tokens", "--model", "models/scratch"),
        *("--parent", "reports/train_run.json"),
        *("--reports", reports, "--journal", "journals/sample"),
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tokens, a model and the run that trained it, in which sample has run."""
    from pipeline.model.gpt import GPT, GPTConfig, initialise
    from pipeline.model.saved import save_config, save_weights
    from pipeline.tracking.run import start_run

    folder = tmp_path_factory.mktemp("repository")
    (folder / ".dvc").mkdir()
    (folder / "params.yaml").write_text(PARAMS)
    (folder / "story.txt").write_text(STORY.read_text()[:4000])
    with chdir(folder):
        invoke("prepare", "--corpus", "data/corpus", "--report", "c.json")
        invoke("split", "--corpus", "data/corpus", "--tokens", "data/tokens", "--report", "s.json")
        config = GPTConfig(n_layer=1, n_head=2, n_embd=16, context_length=64)
        for weights, seed in (("last", 1), ("best", 2)):
            model = GPT(config)
            initialise(model, "pytorch", seed)
            save_weights(Path("models/scratch"), model.state_dict(), weights)  # type: ignore[arg-type]
        save_config(Path("models/scratch"), config)
        with start_run(
            "train", experiment="lossbook", record=Path("reports/train_run.json")
        ) as run:
            for file in ("config.json", "model.pth"):
                copy = file == "config.json"
                run.log_artifact(Path("models/scratch", file), "model", copy=copy)
        done = sample()
        assert done.exception is None, done.output
    return folder


@pytest.fixture
def repository(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same folder, as the working folder of one test."""
    monkeypatch.chdir(made)
    return made


def read(name: str) -> dict:
    return json.loads(Path("reports", name).read_text())


def test_writes_what_the_contract_names(repository: Path) -> None:
    record = read("samples.json")
    assert record["prompts"] == ["Every effort moves you", "He said"]
    assert len(record["samples"]) == 2 * 6  # the chosen setting is one of the grid
    assert len(record["grid"]) == 6
    assert record["chosen"]["temperature"] == 1.4
    page = Path("reports/samples.md").read_text()
    assert all(row["completion"] in page for row in record["samples"])
    for name in ("samples_grid.png", "samples_next_token.png"):
        assert f"({name})" in page
        assert Path("reports", name).read_bytes().startswith(b"\x89PNG")


def test_mlflow_holds_the_cells_the_table_and_the_figures(repository: Path) -> None:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{repository / 'mlflow.db'}")
    parent = read("train_run.json")["run_id"]
    experiment = client.get_run(parent).info.experiment_id
    (run,) = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent}'")
    record = read("samples.json")
    assert run.data.metrics["chosen/distinct_2"] == record["chosen"]["distinct_2"]
    for cell in record["grid"]:
        place = f"grid/t{cell['temperature']:g}-k{cell['top_k'] or 'all'}"
        assert run.data.metrics[f"{place}/mean_log_prob"] == cell["mean_log_prob"]
        assert f"{place}/gpt2_perplexity" not in run.data.metrics
    assert run.data.params["sample.max_new_tokens"] == "8"
    names = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert {"figures", "samples.json", "samples_measured.json", "samples.md"} <= names
    folder = client.download_artifacts(run.info.run_id, "samples.json")
    table = json.loads(Path(folder).read_text())
    assert table["columns"] == ["prompt", "completion", "weights", "temperature", "top_k", "seed"]


@pytest.mark.usefixtures("offline")
def test_the_same_inputs_give_the_same_bytes(repository: Path) -> None:
    assert sample("again").exception is None
    for name in ("samples.json", "samples.md", "samples_grid.png", "samples_next_token.png"):
        assert Path("again", name).read_bytes() == Path("reports", name).read_bytes(), name


@pytest.mark.usefixtures("offline")
def test_a_model_that_diverged_ends_in_one_line(repository: Path) -> None:
    import torch

    weights = Path("models/scratch/model.pth")
    before = weights.read_bytes()
    state = torch.load(weights, weights_only=True)
    state["ln_f.weight"][0] = float("nan")
    weights.unlink()
    torch.save(state, weights)
    try:
        result = sample("nan")
    finally:
        weights.write_bytes(before)
    assert result.exit_code == 1
    assert "Error: models/scratch/model.pth: tensor ln_f.weight holds nan at [0]" in result.stderr
    assert not Path("nan").exists()


@pytest.mark.usefixtures("offline")
def test_a_prompt_is_no_markup_and_no_command(repository: Path) -> None:
    prompts = ["Let $\\R^n$ be", "_a\n# | b", "\x1b[31m 水", "<!-- <b>"]
    settings = {"prompts": prompts, "max_new_tokens": 2, "grid": {"temperature": [0], "top_k": [1]}}
    Path("params.yaml").write_text(
        f"{PARAMS.partition('sample:')[0]}sample: {json.dumps(settings)}"
    )
    try:
        done = sample("hostile")
    finally:
        Path("params.yaml").write_text(PARAMS)
    assert done.exception is None, done.output
    assert json.loads(Path("hostile/samples.json").read_text())["prompts"] == prompts
    page = Path("hostile/samples.md").read_text()
    for heading in (
        "Let &#36;\\\\R^n&#36; be",
        "\\_a↵ &#35; \\| b",
        "\\\\x1b\\[31m 水",
        "&#60;!-- &#60;b\\>",
    ):
        assert f"\n## {heading}\n" in page


def generate(*arguments: str, **options: object) -> Result:
    return CliRunner().invoke(lossbook, ["generate", *arguments], **options)  # type: ignore[arg-type]


def test_generate_continues_as_the_stage_does(repository: Path) -> None:
    result = generate("Every effort moves you", "--json")
    (drawn,) = json.loads(result.output)["samples"]
    rows = read("samples.json")["samples"]
    chosen = next(r for r in rows if (r["temperature"], r["top_k"]) == (1.4, 25))
    assert drawn["completion"] == chosen["completion"]
    assert drawn["seed"] == chosen["seed"] == 123


def test_generate_shows_what_json_holds(repository: Path) -> None:
    asked = ("--num-samples", "3", "--temperature", "2", "--top-k", "0", "--seed", "5")
    printed = json.loads(generate("He said", *asked, "--json").output)
    texts = [f"He said{s['completion']}" for s in printed["samples"]]
    assert len(set(texts)) == 3
    shown = generate("He said", *asked).output
    assert shown == f"{texts[0]}\n--- seed 6\n{texts[1]}\n--- seed 7\n{texts[2]}\n"
    alone = json.loads(generate("He said", *asked[2:-1], "6", "--json").output)
    assert alone["samples"][0]["completion"] == printed["samples"][1]["completion"]


def test_generate_reads_standard_input(repository: Path) -> None:
    by_pipe = generate("--temperature", "0", input="He said\n")
    assert by_pipe.output == generate("He said", "--temperature", "0").output
    assert by_pipe.output.startswith("He said")


@pytest.mark.parametrize("prompt", ["", "<|endoftext|>", "word " * 100])
def test_generate_takes_any_text(repository: Path, prompt: str) -> None:
    """None, a special token's name, more than the context holds: shown, then continued."""
    result = generate("--temperature", "0", "--max-new-tokens", "3", input=prompt)
    assert result.exit_code == 0
    assert result.output.startswith(prompt)
    assert len(result.output) > len(prompt) + 1


def test_generate_ends_with_the_reader_of_its_pipe(repository: Path) -> None:
    endless = ("generate", "He said", "--max-new-tokens", "100000")
    environment = {**os.environ, "PYTHONPATH": str(STORY.parents[3])}
    with Popen(
        [sys.executable, "-m", "pipeline.cli", *endless], env=environment, stdout=PIPE, stderr=PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(7) == b"He said"
        process.stdout.close()
        errors = process.stderr.read().decode()
        assert process.wait(timeout=60) == 1
    assert "Traceback" not in errors


def test_generate_finds_weights_by_run_folder_and_name(repository: Path) -> None:
    key = read("train_run.json")["run"]
    run_id = read("train_run.json")["run_id"]
    outputs = {
        generate("He said", "--model", name).output
        for name in ("trained", "models/scratch", key, key[:6], run_id)
    }
    assert len(outputs) == 1
    assert generate("He said", "--weights", "best").output not in outputs
    record = Path("reports/train_run.json")
    record.rename("elsewhere.json")  # now the run is only known by its journal
    try:
        assert generate("He said", "--model", key).output in outputs
        missing = generate("He said", "--model", key, "--weights", "best")
    finally:
        Path("elsewhere.json").rename(record)
    assert f"run {key} (train): its best.pth is neither here nor in DVC's cache" in missing.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "nothing"], "nothing: no such model; give `trained`, gpt2-SIZE, a folder"),
        (["--model", "gpt2-7B"], "gpt2-7B: GPT-2's sizes are 124M, 355M, 774M, 1558M"),
        (["--top-p", "1.5"], "top_p must be above 0 and at most 1, not 1.5"),
        (["--temperature", "-1"], "temperature must be a number from 0 up, not -1"),
        (["--seed", "-1"], "seed must be at least 0"),
        (["--params", "elsewhere.yaml"], "elsewhere.yaml: No such file or directory"),
    ],
)
def test_generate_says_what_is_wrong(repository: Path, arguments: list[str], said: str) -> None:
    result = generate("He said", *arguments)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert said in line


def test_generate_refuses_bytes_that_are_no_text(repository: Path) -> None:
    result = generate(input=b"\xff\xfe")
    assert result.exit_code == 1
    assert "standard input: not UTF-8 text" in result.stderr


@pytest.mark.usefixtures("offline")
def test_the_chosen_temperature_leaves_the_grid_as_it_is(repository: Path) -> None:
    """So that `compare`, which shows the grid, does not run again for another temperature."""
    before = Path("reports/sampling_grid.json").read_bytes()
    Path("params.yaml").write_text(PARAMS + "  temperature: 0.3\n  top_k: 7\n")
    try:
        assert sample("cooler").exception is None
    finally:
        Path("params.yaml").write_text(PARAMS)
    assert Path("cooler/sampling_grid.json").read_bytes() == before
    assert Path("cooler/samples.json").read_bytes() != Path("reports/samples.json").read_bytes()
