"""`mlflow models serve` as a process of its own, asked as a client would."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import requests


@contextmanager
def serving(command: Sequence[str], folder: Path, port: int, **variables: str) -> Iterator[str]:
    """Run the command, which serves a model on this port, until the block ends; the server's URL.

    It has neither our package on its path nor a way to anything but 127.0.0.1.
    """
    nobody = "http://127.0.0.1:9"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"HTTP_PROXY": nobody, "HTTPS_PROXY": nobody, "NO_PROXY": "127.0.0.1"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    log_file = folder.parent / "serve.log"
    with open(log_file, "wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment | variables,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        while not answers(url):
            assert process.poll() is None, log_file.read_text()
            time.sleep(0.2)
        yield url
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()


def answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/ping", timeout=1).ok
    except requests.RequestException:
        return False


def ask(url: str, prompts: Sequence[str], **params: object) -> requests.Response:
    body = {"inputs": [{"prompt": prompt} for prompt in prompts], "params": params}
    return requests.post(f"{url}/invocations", json=body, timeout=60)


def completions(answer: requests.Response) -> list[str]:
    return [row["completion"] for row in answer.json()["predictions"]]
