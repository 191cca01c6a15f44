"""docs/serve.md, command by command as it is printed, on a model that the pipeline trained."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.helpers.model_server import ask, completions, serving
from tests.helpers.repository import Repository
from tests.helpers.servers import free_port

pytestmark = pytest.mark.slow

PAGE = (Path(__file__).parents[2] / "docs" / "serve.md").read_text()
PROMPT = "Every effort moves you"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    folder = tmp_path_factory.mktemp("serving") / "lossbook"
    folder.mkdir()
    repository = Repository(folder)
    repository.run("dvc", "repro", "train")
    return repository


def test_the_page_is_true(repository: Repository) -> None:
    """The served text is `lossbook generate`'s, and the refusal is the one that is printed."""
    port = free_port()
    page = PAGE.replace("5001", str(port))
    serve, curl, generate = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    refused, complaint = re.findall(r"\$ (curl .*?)\n(\{.*?)\n```", page, re.DOTALL)[0]
    with serving(["bash", "-c", serve], repository.folder, port):
        answer = json.loads(repository.run("bash", "-c", curl).stdout)
        assert repository.run("bash", "-c", refused).stdout.strip() == complaint
    (row,) = answer["predictions"]
    assert repository.run("bash", "-c", generate).stdout == f"{PROMPT}{row['completion']}\n"
    assert len(row["completion"]) > 20


def test_a_prompt_is_completed_the_same_beside_others(repository: Repository) -> None:
    """And as `generate --model RUN` completes it, which finds the weights by their hash."""
    port = free_port()
    serve, *_ = re.findall(r"```sh\n(.*?)```", PAGE.replace("5001", str(port)), re.DOTALL)
    run = repository.read("train_run.json")["run_id"]
    prompts = [PROMPT, "He said", "The"]
    with serving(["bash", "-c", serve], repository.folder, port) as url:
        said = completions(ask(url, prompts, seed=7))
    (repository.folder / "reports/train_run.json").rename(repository.folder / "aside.json")
    for prompt, completion in zip(prompts, said, strict=True):
        options = ("--weights", "best", "--seed", "7", "--json", "--model", run)
        done = repository.run("lossbook", "generate", prompt, *options)
        assert json.loads(done.stdout)["samples"][0]["completion"] == completion
    (repository.folder / "aside.json").rename(repository.folder / "reports/train_run.json")
