"""docs/serve.md, command by command as it is printed, on a model that the pipeline trained."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import requests

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


LONG_NAME = "x" * 5000
HE_SAID = [{"prompt": "He said"}]
REFUSED = {
    "tokens without end": ({"inputs": HE_SAID, "params": {"max_new_tokens": 10**12}}, "1 prompts"),
    "many prompts": ({"inputs": HE_SAID * 2501, "params": {"max_new_tokens": 2}}, "2501 prompts"),
    "long prompts": ({"inputs": [{"prompt": "a" * 1_000_001}]}, "more than 1000000 characters"),
    "no tokens": ({"inputs": HE_SAID, "params": {"max_new_tokens": 0}}, "must be at least 1"),
    "a param of text": ({"inputs": HE_SAID, "params": {"seed": LONG_NAME}}, "must be a number"),
    "an unknown param": ({"inputs": HE_SAID, "params": {LONG_NAME: 1}}, "unknown params xxx"),
    "an unknown field": ({"inputs": HE_SAID, "prompt": "x"}, "unknown fields prompt; there are"),
    "NaN": ('{"inputs": ["a"], "params": {"temperature": NaN}}', "must be a number from 0 up"),
    "infinity": (
        '{"inputs": ["a"], "params": {"temperature": 1e999}}',
        "from 0 up, not inf",
    ),
    "a seed too large": ({"inputs": HE_SAID, "params": {"seed": 2**64}}, "seed must be at least 0"),
    "a number": ({"inputs": [{"prompt": 7}]}, "a prompt must be text, not 7"),
    "null": ({"dataframe_records": [{"prompt": None}]}, "a prompt must be text, not None"),
    "half a pair": ('{"inputs": [{"prompt": "\\ud800"}]}', "not valid JSON"),
    "no JSON": ("{", "the request: not valid JSON"),
    "too deep": ("[" * 100_000, "the request: not valid JSON"),
    "a long number": ('{"inputs": ["a"], "params": {"seed": ' + "9" * 5000 + "}}", "the request"),
    "no inputs": ({}, "exactly one of the input fields"),
    "a list": ([1], "the request must be an object"),
}


def test_what_cannot_be_completed_is_refused_at_once(repository: Repository) -> None:
    """With a line that says why, and status 400; the server goes on."""
    port = free_port()
    serve, *_ = re.findall(r"```sh\n(.*?)```", PAGE.replace("5001", str(port)), re.DOTALL)
    with serving(["bash", "-c", serve], repository.folder, port) as url:
        for name, (body, part) in REFUSED.items():
            answer = requests.post(
                f"{url}/invocations",
                data=body if isinstance(body, str) else json.dumps(body),
                headers={"Content-Type": "application/json"},
                timeout=20,
            )
            assert answer.status_code == 400, (name, answer.text)
            assert part in answer.json()["message"], name
            assert len(answer.text) < 1100, name
        assert completions(ask(url, ["He said"], max_new_tokens=2))
        assert completions(ask(url, [], max_new_tokens=2)) == []
