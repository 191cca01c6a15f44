"""What cases run beside the commands: functions of text, in a process of their own."""

from __future__ import annotations

import json
import os
import sys
import traceback
from contextlib import suppress
from pathlib import Path

import pipeline
from pipeline.params import load_params


def write_gpt2(folder: str) -> None:
    """A tiny GPT-2 in Hugging Face's layout, which needs no TensorFlow."""
    from pipeline.gpt2.export import export
    from pipeline.model.gpt import GPT, GPTConfig, initialise

    model = GPT(
        GPTConfig(
            n_layer=1,
            n_head=2,
            n_embd=8,
            context_length=32,
            qkv_bias=True,
            tie_weights=True,
            dropout=0.0,
        )
    )
    initialise(model, "gpt2", 1)
    export(model.eval(), Path(folder))


def write_store() -> None:
    """A fresh `mlflow.db`."""
    from pipeline.tracking.mlflow.store import connect

    os.environ["DVC_ROOT"] = str(Path.cwd())
    connect()


def params(path: str = "params.yaml") -> None:
    load_params(Path(path))


def train_killed(*argv: str) -> None:
    """A training that is killed when it has all but written its outputs."""
    import signal

    from pipeline.training import stage
    from stages.train import main

    stage.write_outputs = lambda *args: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore
    main(list(argv), standalone_mode=False)


def prepare_soon() -> None:
    """The stage, with a network that is given up after a second of silence."""
    from pipeline.corpus import download
    from pipeline.system import http
    from stages.prepare import main

    download.TIMEOUT, http.ANSWER = (1, 1), 5
    main(["--corpus", "data/corpus", "--report", "reports/corpus.json"], standalone_mode=False)


def fetch_soon() -> None:
    """The stage, as impatient, and with the reading of the weights in this very process."""
    from pipeline.gpt2 import fetch
    from pipeline.gpt2.network import Patience

    patience = Patience(connect=1, stall=0.3, longest_wait=0.5, sleep=lambda seconds: None)
    found = fetch.fetch("124M", load_params().gpt2, patience=patience, verify=fetch.verify_here)
    found.write(Path("reports/gpt2/124M.json"))
    if found.status == "unavailable":
        print(f"GPT-2 124M: unavailable: {found.reason}", file=sys.stderr)


def write_openai(folder: str) -> None:
    """A tiny checkpoint in OpenAI's layout."""
    from tests.helpers.checkpoints import TINY, write_checkpoint

    write_checkpoint(Path(folder), TINY)


def read_gpt2() -> None:
    """Load the weights that params.yaml names."""
    from pipeline.gpt2.load import load_gpt2

    load_gpt2("124M", load_params().gpt2)


def served(model: str, request: str, kind: str = "application/json") -> None:
    """Ask MLflow's server of a saved model, in this process, as a client would.

    Raises:
        SystemExit: with 1 where the request is refused, with 70 where the server fails.
    """
    import asyncio

    from mlflow import pyfunc
    from mlflow.pyfunc.scoring_server import init

    app, body, answer = init(pyfunc.load_model(model)), Path(request).read_bytes(), []
    headers = [(b"content-type", kind.encode("latin-1"))]
    scope = {"type": "http", "http_version": "1.1", "method": "POST", "path": "/invocations"}
    scope |= {"headers": headers, "query_string": b"", "scheme": "http", "root_path": ""}
    scope |= {"raw_path": b"/invocations", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2)}

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, object]) -> None:
        answer.append(message)

    try:
        asyncio.run(app(scope, receive, send))
    except Exception as error:
        ours = Path(pipeline.__file__).parent
        frames = traceback.extract_tb(error.__traceback__)
        if any(Path(frame.filename).is_relative_to(ours / "serving") for frame in frames):
            raise
        answer = [{"status": 400}]  # MLflow stumbles over the body before it reaches us
    status = answer[0]["status"]
    text = b"".join(part.get("body", b"") for part in answer[1:]).decode()
    if status == 200:
        print(len(text))
        return
    with suppress(ValueError, AttributeError):
        values = json.loads(text)
        text = values.get("message", "") + values.get("stack_trace", "")
    # MLflow puts the whole input into its own messages
    print(
        "Error:",
        text if f"{os.sep}pipeline{os.sep}" in text else ascii(text)[:400],
        file=sys.stderr,
    )
    raise SystemExit(1 if status < 500 else 70)


def check_and_repro() -> None:
    """`lossbook check && dvc repro split`, as the Makefile and the README have it."""
    import subprocess

    import pipeline.cli

    if "check" in pipeline.cli.COMMANDS:
        pipeline.cli.main(["check"], standalone_mode=False)
    else:
        load_params()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DVC_")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment["PYTHONPATH"] = "."
    environment["DVC_NO_ANALYTICS"] = "1"
    done = subprocess.run(
        ["dvc", "repro", "split", "fetch_gpt2"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.lower().startswith("error: ")]
        print("Error:", said[0][7:] if said else done.stderr, file=sys.stderr)
        raise SystemExit(1)
