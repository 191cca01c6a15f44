"""GPT-2's weights, in both layouts, damaged in every way that keeps a file a file."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import zygote
from tests.helpers.arena import ODD, Arena, Case, swapped
from tests.helpers.malformed import dump, json_mutations, mutated

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

READ = ("tests.malformed.programs:read_gpt2",)
FETCH = ("tests.malformed.programs:fetch_soon",)


def _safetensors(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Headers that lie about what follows them."""
    (size,) = struct.unpack("<Q", data[:8])
    header, rest = json.loads(data[8 : 8 + size]), data[8 + size :]

    def packed(changed: Any) -> bytes:
        text = changed if isinstance(changed, bytes) else dump(changed).encode()
        return struct.pack("<Q", len(text)) + text + rest

    name = next(key for key in header if key != "__metadata__")
    entry = header[name]
    for label, length in {
        "0": 0,
        "1": 1,
        "too long": len(data) * 2,
        "2^63": 2**63,
        "2^64 - 1": 2**64 - 1,
        "10^8": 10**8,
    }.items():
        yield f"a header's length of {label}", struct.pack("<Q", length) + data[8:]
    for label, change in {
        "dtype of numbers": {"dtype": 5},
        "dtype unknown": {"dtype": "F99"},
        "dtype of other bytes": {"dtype": "F64"},
        "dtype of integers": {"dtype": "I32"},
        "dtype of booleans": {"dtype": "BOOL"},
        "dtype of eight bits": {"dtype": "F8_E4M3"},
        "shape huge": {"shape": [2**40, 2**40]},
        "shape negative": {"shape": [-1, 8]},
        "shape of text": {"shape": "large"},
        "shape empty": {"shape": []},
        "shape transposed": {"shape": entry["shape"][::-1]},
        "shape of 10,000 dimensions": {"shape": [1] * 10_000},
        "offsets turned round": {"data_offsets": entry["data_offsets"][::-1]},
        "offsets beyond the file": {"data_offsets": [0, 2**62]},
        "offsets negative": {"data_offsets": [-8, 8]},
        "offsets of text": {"data_offsets": ["a", "b"]},
        "offsets of one": {"data_offsets": [0]},
        "nothing": None,
    }.items():
        new = {**entry, **change} if change is not None else {}
        yield f"{name}: {label}", packed({**header, name: new})
    yield "no tensors", packed({})
    yield "a list", packed([1])
    yield "not JSON", packed(b"surprise")
    yield "not UTF-8", packed(b'{"\xff": 1}')
    yield "deep", packed(b"[" * 100_000)
    yield "names with escapes", packed({**header, "\x1b[31m": entry})
    yield "a tensor less", packed({key: value for key, value in header.items() if key != name})
    yield "metadata of numbers", packed({**header, "__metadata__": {"a": 1}})
    values = struct.pack("<f", float("nan"))
    yield "nan", data[:-4] + values
    yield "infinity", data[:-4] + struct.pack("<f", float("inf"))


def _hparams(valid: dict[str, int]) -> Iterator[tuple[str, str]]:
    yield from json_mutations(valid, "hparams", 20)
    for key in valid:
        for size in (0, -1, 10**9, 2**63):
            yield f"{key}={size}", dump({**valid, key: size})


def _source(repo: Path, folder: str) -> None:
    values = json.loads((repo / "params.yaml").read_text())
    values["gpt2"] |= {"source": folder, "sizes": ["124M"]}
    (repo / "params.yaml").write_text(json.dumps(values))


def _in(folder: str, *changes: Any) -> Callable[[Path], None]:
    def change(repo: Path) -> None:
        _source(repo, folder)
        for one in changes:
            one(repo)

    return change


GENERATE = ("lossbook", "generate", "--model", "gpt2-124M", "--max-new-tokens", "2", "The")


def _huggingface(folder: Path) -> Iterator[Case]:
    weights = (folder / "model.safetensors").read_bytes()
    damaged = [mutated(weights, f"safetensors {index}") for index in range(20)]
    lies = [*_safetensors(weights), *((f"{i}: {what}", d) for i, (what, d) in enumerate(damaged))]
    for index, (name, data) in enumerate(lies):
        put = _in("gpt2", swapped("gpt2/124M/model.safetensors", data))
        names = ("model.safetensors", "124M")
        yield Case(f"read: model.safetensors: {name}", READ, put, names)
        if index % 3 == 0:
            yield Case(f"fetch: model.safetensors: {name}", FETCH, put, names)
    config = json.loads((folder / "config.json").read_text())
    for name, text in json_mutations(config, "config.json of GPT-2", 25):
        data = text.encode("utf-8", "surrogatepass")
        put = _in("gpt2", swapped("gpt2/124M/config.json", data))
        yield Case(f"read: config.json: {name}", READ, put, ("config.json", "model.safetensors"))


def _openai(folder: Path) -> Iterator[Case]:
    hparams = json.loads((folder / "hparams.json").read_text())
    for name, text in _hparams(hparams):
        data = text.encode("utf-8", "surrogatepass")
        put = _in("checkpoint", swapped("checkpoint/124M/hparams.json", data))
        names = ("hparams.json", "model.ckpt", "model/")
        yield Case(f"read: hparams.json: {name}", READ, put, names)
    for path, index in product(sorted(folder.iterdir()), range(8)):
        what, data = mutated(path.read_bytes(), f"{path.name} {index}")
        put = _in("checkpoint", swapped(f"checkpoint/124M/{path.name}", data))
        verb, argv = ("read", READ) if index % 2 else ("fetch", FETCH)
        names = ("checkpoint/124M", "124M", "model")
        yield Case(f"{verb}: {path.name}: {index}: {what}", argv, put, names)


def _odd_files(openai: Path) -> Iterator[Case]:
    for path, odd in product(sorted(openai.iterdir()), ODD):
        put = _in("checkpoint", swapped(f"checkpoint/124M/{path.name}", None, odd))
        yield Case(f"fetch: {path.name} is {odd}", FETCH, put, ("124M",))
        if odd in ("a fifo", "missing"):
            names = (path.name, "model.ckpt", "gpt2.source")
            yield Case(f"read: {path.name} is {odd}", READ, put, names)
    files = ("gpt2/124M/model.safetensors", "gpt2/124M/config.json", "checkpoint/124M/hparams.json")
    for file, odd in product(files, ODD):
        put = _in(file.partition("/")[0], swapped(file, None, odd))
        names = (Path(file).name, "gpt2.source")
        yield Case(f"generate: {file} is {odd}", GENERATE, put, names, shows_text=True, fails=True)


def cases(template: Path) -> Iterator[Case]:
    yield from _huggingface(template / "repo/gpt2/124M")
    yield from _openai(template / "repo/checkpoint/124M")
    yield from _odd_files(template / "repo/checkpoint/124M")
    for folder in ("checkpoint", "gpt2"):
        name = f"generate: {folder}: unharmed"
        yield Case(name, GENERATE, _in(folder), shows_text=True, fails=False)


@pytest.fixture(scope="module")
def weights_arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    """With TensorFlow at hand."""
    folder = tmp_path_factory.mktemp("weights")
    arena = Arena(
        folder,
        *zygote.COMMON,
        "tensorflow",
        "safetensors.torch",
        *zygote.STAGES,
        "pipeline.gpt2.tf_checkpoint",
    )
    yield arena
    arena.close()


def test_weights(weights_arena: Arena, plain: Path, tmp_path: Path) -> None:
    template = tmp_path / "template"
    shutil.copytree(plain, template)
    for function, folder in (("write_gpt2", "gpt2/124M"), ("write_openai", "checkpoint/124M")):
        argv = (f"tests.malformed.programs:{function}", folder)
        ended = weights_arena._all[0].run(
            argv, template / "repo", tmp_path / "log", seconds=100, memory=8 * zygote.GIB
        )
        assert ended.status == 0, ended
    weights_arena.check("weights", cases(template), template)
