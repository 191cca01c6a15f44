"""docs/serve.md, command by command as it is printed, on a model that the pipeline trained."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import requests
from test_pipeline import Repository

from pipeline.tracking.server import free_port

pytestmark = pytest.mark.slow

PAGE = (Path(__file__).parents[1] / "docs" / "serve.md").read_text()
PROMPT = "Every effort moves you"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    folder = tmp_path_factory.mktemp("serving") / "lossbook"
    folder.mkdir()
    repository = Repository(folder)
    repository.run("dvc", "repro", "train")
    return repository


@contextmanager
def serving(repository: Repository, commands: str, url: str) -> Iterator[None]:
    """Run the page's first commands until the model answers; nothing but 127.0.0.1 is reached."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    nobody = "http://127.0.0.1:9"
    environment |= {"HTTP_PROXY": nobody, "HTTPS_PROXY": nobody, "NO_PROXY": "127.0.0.1"}
    log_file = repository.folder.parent / "serve.log"
    with open(log_file, "wb") as log:
        process = subprocess.Popen(
            ["bash", "-c", commands],
            cwd=repository.folder,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        while not answers(url):
            assert process.poll() is None, log_file.read_text()
            time.sleep(0.2)
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()


def answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/ping", timeout=1).ok
    except requests.RequestException:
        return False


def test_the_page_is_true(repository: Repository) -> None:
    """The served text is `lossbook generate`'s, and the refusal is the one that is printed."""
    port = str(free_port(0))
    page = PAGE.replace("5001", port)
    serve, ask, generate = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    refused, complaint = re.findall(r"\$ (curl .*?)\n(\{.*?)\n```", page, re.DOTALL)[0]
    with serving(repository, serve, f"http://127.0.0.1:{port}"):
        answer = json.loads(repository.run("bash", "-c", ask).stdout)
        assert repository.run("bash", "-c", refused).stdout.strip() == complaint
    (row,) = answer["predictions"]
    assert repository.run("bash", "-c", generate).stdout == f"{PROMPT}{row['completion']}\n"
    assert len(row["completion"]) > 20


def test_a_prompt_is_completed_the_same_beside_others(repository: Repository) -> None:
    """And as `generate --model RUN` completes it, which finds the weights by their hash."""
    port = str(free_port(0))
    serve, *_ = re.findall(r"```sh\n(.*?)```", PAGE.replace("5001", port), re.DOTALL)
    run = repository.read("train_run.json")["run_id"]
    prompts = [PROMPT, "He said", "The"]
    with serving(repository, serve, f"http://127.0.0.1:{port}"):
        answer = requests.post(
            f"http://127.0.0.1:{port}/invocations",
            json={"inputs": [{"prompt": prompt} for prompt in prompts], "params": {"seed": 7}},
            timeout=60,
        )
    said = [row["completion"] for row in answer.json()["predictions"]]
    (repository.folder / "reports/train_run.json").rename(repository.folder / "aside.json")
    for prompt, completion in zip(prompts, said, strict=True):
        options = ("--weights", "best", "--seed", "7", "--json", "--model", run)
        done = repository.run("lossbook", "generate", prompt, *options)
        assert json.loads(done.stdout)["samples"][0]["completion"] == completion
    (repository.folder / "aside.json").rename(repository.folder / "reports/train_run.json")
