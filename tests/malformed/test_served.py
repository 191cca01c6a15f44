"""Requests to the served model, as MLflow's server takes them in."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.helpers.arena import COMMANDS, Arena, Case
from tests.helpers.malformed import Raw, dump, json_mutations
from tests.helpers.model_server import serving
from tests.helpers.servers import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

PARAMS = {"temperature": 0.7, "top_k": 3, "max_new_tokens": 2, "seed": 1}
VALID: dict[str, Any] = {"inputs": [{"prompt": "The"}], "params": PARAMS}
NUMBERS = (0, -1, 1.5, 10**9, 10**12, 2**31, 2**62, 2**63, 10**30, -(2**63), 1e308, -1e308, 5e-324,
    Raw("NaN"), Raw("Infinity"), Raw("-Infinity"), Raw("1e999"), Raw("9" * 5000), True, None, "1",
    "x", [], {}, [1])  # fmt: skip
BODIES: dict[str, bytes] = {
    "empty": b"",
    "not JSON": b"surprise",
    "null": b"null",
    "number": b"1",
    "text": b'"The"',
    "list": b"[]",
    "list of texts": b'["The"]',
    "empty map": b"{}",
    "not UTF-8": b'{"inputs": [{"prompt": "\xff"}]}',
    "nul": b'{"inputs": [{"prompt": "\\u0000"}]}',
    "torn": b'{"inputs": [{"prompt": "Th',
    "deep": b"[" * 100_000,
    "deep inputs": b'{"inputs": ' + b"[" * 900 + b"]" * 900 + b"}",
    "5000 digits": b'{"inputs": [{"prompt": ' + b"9" * 5000 + b"}]}",
    "a thousand prompts": json.dumps(
        {"inputs": [{"prompt": "a"}] * 1000, "params": {"max_new_tokens": 1}}
    ).encode(),
    "a long prompt": json.dumps(
        {"inputs": [{"prompt": "word " * 100_000}], "params": {"max_new_tokens": 1}}
    ).encode(),
    "no spaces": json.dumps(
        {"inputs": [{"prompt": "a" * 1_000_000}], "params": {"max_new_tokens": 1}}
    ).encode(),
    "spaces": json.dumps(
        {"inputs": [{"prompt": " " * 300_000}], "params": {"max_new_tokens": 1}}
    ).encode(),
    "no prompts": b'{"inputs": []}',
    "prompt empty": b'{"inputs": [{"prompt": ""}]}',
    "prompt null": b'{"inputs": [{"prompt": null}]}',
    "prompt number": b'{"inputs": [{"prompt": 1}]}',
    "prompt list": b'{"inputs": [{"prompt": ["a"]}]}',
    "prompt map": b'{"inputs": [{"prompt": {"a": 1}}]}',
    "prompt surrogate": b'{"inputs": [{"prompt": "\\ud800"}]}',
    "prompt end of text": b'{"inputs": [{"prompt": "<|endoftext|>"}]}',
    "another column": b'{"inputs": [{"text": "The"}]}',
    "a column more": b'{"inputs": [{"prompt": "The", "more": 1}]}',
    "columns that differ": b'{"inputs": [{"prompt": "The"}, {"other": 1}]}',
    "inputs a map": b'{"inputs": {"prompt": ["The"]}}',
    "inputs a map of text": b'{"inputs": {"prompt": "The"}}',
    "inputs a text": b'{"inputs": "The"}',
    "inputs texts": b'{"inputs": ["The"]}',
    "inputs twice": b'{"inputs": [], "instances": []}',
    "instances": b'{"instances": [{"prompt": "The"}]}',
    "split": b'{"dataframe_split": {"columns": ["prompt"], "data": [["The"]]}}',
    "split ragged": b'{"dataframe_split": {"columns": ["prompt", "b"], "data": [["The"]]}}',
    "split of numbers": b'{"dataframe_split": {"columns": [1], "data": [[2]]}}',
    "split without data": b'{"dataframe_split": {}}',
    "records": b'{"dataframe_records": [{"prompt": "The"}]}',
    "records of numbers": b'{"dataframe_records": [1]}',
    "params a list": b'{"inputs": [{"prompt": "The"}], "params": [1]}',
    "params a text": b'{"inputs": [{"prompt": "The"}], "params": "x"}',
    "params null": b'{"inputs": [{"prompt": "The"}], "params": null}',
    "params empty": b'{"inputs": [{"prompt": "The"}], "params": {}}',
    "messages": b'{"messages": [{"role": "user", "content": "The"}]}',
    "prompt alone": b'{"prompt": "The"}',
    "input alone": b'{"input": "The"}',
}


def _requests() -> Iterator[tuple[str, bytes, str]]:
    yield "right", dump(VALID).encode(), "application/json"
    for name, body in BODIES.items():
        yield name, body, "application/json"
    for param in PARAMS:
        for index, value in enumerate(NUMBERS):
            yield (
                f"{param} {index} {ascii(value)[:30]}",
                dump({**VALID, "params": {**PARAMS, param: value}}).encode(),
                "application/json",
            )
    for name in ("surprise", "\x1b[31m", "", "prompt", "x" * 5000, "../x", "\ud800"):
        yield (
            f"unknown param {name[:20]!r}",
            dump({**VALID, "params": {name: 1}}).encode("utf-8", "surrogatepass"),
            "application/json",
        )
    for name, text in json_mutations(VALID, "request", 40):
        yield f"mutation {name}", text.encode("utf-8", "surrogatepass"), "application/json"
    for kind in (
        "text/plain",
        "",
        "application/json; charset=latin-1",
        "application/json; x=y",
        "\x1b[31m",
        "x" * 5000,
    ):
        yield f"content type {kind[:30]!r}", dump(VALID).encode(), kind
    for name, body in {
        "no prompt": b"a,b\n1,2\n",
        "prompt": b"prompt\nThe\n",
        "binary": bytes(100),
    }.items():
        yield f"csv: {name}", body, "text/csv"


def cases(model: Path) -> Iterator[Case]:
    for name, body, kind in _requests():
        yield Case(
            name,
            ("tests.malformed.programs:served", str(model), "request", kind),
            lambda repo, body=body: (repo / "request").write_bytes(body),
            shows_text=True,
            fails=False if name == "right" else None,
        )


@pytest.fixture(scope="session")
def published(arena: Arena, finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model in MLflow's store."""
    place = tmp_path_factory.mktemp("published") / "place"
    shutil.copytree(finished, place, symlinks=True)
    repo = place / "repo"
    for name in ("mlflow.db", "mlartifacts", ".lossbook"):
        path = repo / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    environment = {"LOSSBOOK_CACHE": str(place / "cache"), "LOSSBOOK_OFFLINE": ""}
    ended = arena._all[0].run(
        COMMANDS["train"],
        repo,
        place.with_suffix(".log"),
        environment=environment,
        seconds=200,
        memory=8 << 30,
    )
    assert ended.status == 0, ended
    (found,) = (repo / "mlartifacts").rglob("MLmodel")
    return found.parent


def test_requests(arena: Arena, published: Path, plain: Path) -> None:
    arena.check("served", cases(published), plain)


def test_a_real_server_refuses_and_lives(published: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(published)]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    headers = {"Content-Type": "application/json"}
    with serving(command, published.parent, port) as url:
        for name in (
            "not JSON",
            "torn",
            "list of texts",
            "number",
            "prompt number",
            "another column",
            "params a list",
        ):
            answer = requests.post(f"{url}/invocations", BODIES[name], headers=headers, timeout=60)
            assert answer.status_code == 400, (name, answer.text)
            assert "Traceback" not in answer.text, (name, answer.text)
        for param, value in (("max_new_tokens", 10**12), ("top_k", -1), ("seed", 2**80)):
            body = dump({**VALID, "params": {**PARAMS, param: value}}).encode()
            answer = requests.post(f"{url}/invocations", body, headers=headers, timeout=60)
            assert answer.status_code == 400, (param, answer.text)
            assert param in answer.json()["message"], answer.text
        answer = requests.post(
            f"{url}/invocations", dump(VALID).encode(), headers=headers, timeout=60
        )
        assert answer.status_code == 200, answer.text
