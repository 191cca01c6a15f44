"""`gpt2.source: huggingface`, by its own client, from a hub on this machine."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from pipeline.errors import UserError
from pipeline.gpt2.export import export
from pipeline.gpt2.fetch import fetch
from pipeline.gpt2.huggingface import FILES, WEIGHTS
from pipeline.gpt2.load import load_gpt2
from pipeline.gpt2.sizes import SIZES, Hparams
from pipeline.model.gpt import GPT, GPTConfig, initialise
from pipeline.params import Gpt2

HUB = Gpt2(source="huggingface")
HPARAMS = Hparams(n_vocab=300, n_ctx=16, n_embd=32, n_head=4, n_layer=3)


class Hub(ThreadingHTTPServer):
    """Serves /REPOSITORY/resolve/main/FILE as huggingface.co does: the ETag is the SHA-256."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.etags: dict[str, str] = {}
        self.got: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        body = self._answer()
        if body is not None:
            self.server.got.append(self.path.rsplit("/", 1)[1])
            self.wfile.write(body)

    def _answer(self) -> bytes | None:
        body = self.server.files.get(self.path)
        if body is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        etag = self.server.etags.get(self.path, hashlib.sha256(body).hexdigest())
        self.send_response(200)
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        return body

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def model() -> GPT:
    model = GPT(GPTConfig(3, 4, 32, 16, 300, qkv_bias=True, tie_weights=True))
    initialise(model, "pytorch", 0)
    return model


@pytest.fixture
def hub(model: GPT, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    export(model, tmp_path / "out")
    monkeypatch.setitem(SIZES, "355M", replace(SIZES["355M"], hparams=HPARAMS))
    with Hub() as server:
        for name in FILES:
            path = f"/openai-community/gpt2-medium/resolve/main/{name}"
            server.files[path] = (tmp_path / "out" / name).read_bytes()
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_size_is_fetched_once(hub: Hub, model: GPT) -> None:
    report = fetch("355M", HUB)
    assert (report.status, report.source) == ("available", "huggingface")
    assert list(report.files) == list(FILES)
    assert hub.got == list(FILES)
    assert fetch("355M", HUB) == report
    assert hub.got == list(FILES)
    again = load_gpt2("355M", HUB)
    assert torch.equal(again.wte.weight, model.wte.weight)


def test_a_file_that_is_not_there_is_unavailable(hub: Hub) -> None:
    report = fetch("124M", HUB)
    assert report.status == "unavailable"
    assert (report.reason or "").startswith("openai-community/gpt2/config.json cannot be fetched")


def test_weights_that_do_not_match_the_hub_s_digest_are_refused(hub: Hub, cache: Path) -> None:
    path = f"/openai-community/gpt2-medium/resolve/main/{WEIGHTS}"
    hub.etags[path] = "0" * 64
    report = fetch("355M", HUB)
    assert report.reason == (
        "openai-community/gpt2-medium/model.safetensors does not match the hub's digest"
    )
    assert not list(cache.rglob("*.safetensors"))
    del hub.etags[path]
    assert fetch("355M", HUB).status == "available"


def test_another_size_s_configuration_is_refused(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    other = replace(SIZES["355M"], hparams=Hparams(300, 16, 32, 4, 4))
    monkeypatch.setitem(SIZES, "355M", other)
    reason = "openai-community/gpt2-medium/config.json: n_layer is 3, but GPT-2 355M has 4"
    assert fetch("355M", HUB).reason == reason
    assert hub.got == ["config.json"]


def test_nobody_there_is_unavailable(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    assert fetch("355M", HUB).reason == "127.0.0.1 cannot be reached (Connection refused)"


def test_without_the_package_it_is_an_error_that_says_what_to_install(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"pip install 'lossbook\[huggingface\]'"):
        fetch("355M", HUB)
