"""Saved models: whatever may lie where weights, their optimizer and their settings should."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.arena import COMMANDS, ODD, Arena, Case, swapped
from tests.helpers.malformed import dump, json_mutations, mutated

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

MODEL = "models/scratch"
GENERATE = ("lossbook", "generate", "--max-new-tokens", "3", "--weights", "last", "The")
EXPORT = ("lossbook", "export", "exported")
START = "start"  # a copy of the model's folder, from which a training begins


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, ("touch X",)


def saved(value: object, **how: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **how)
    return buffer.getvalue()


def _weights(valid: dict[str, torch.Tensor]) -> Iterator[tuple[str, bytes]]:
    first = "h.0.attn.c_attn.weight"
    tensor = valid[first]
    whole: dict[str, object] = {
        "a list": [1, 2],
        "a tensor": tensor,
        "a number": 1,
        "None": None,
        "a text": "weights",
        "nan": float("nan"),
        "an empty dict": {},
        "a dict of numbers": {"a": 1},
        "a dict of dicts": {"state": valid},
        "numbers as names": {1: tensor},
        "None as a name": {None: tensor, **valid},
        "a name with escapes": {"\x1b[31m\n": tensor, **valid},
        "a long name": {"n" * 100_000: tensor, **valid},
        "10,000 names": {**valid, **{f"extra{i}": 1 for i in range(10_000)}},
        "nothing of what is wanted": {f"other{i}": tensor for i in range(100)},
    }
    for name, value in whole.items():
        yield name, saved(value)
    changed: dict[str, Any] = {
        "nan": torch.full_like(tensor, float("nan")),
        "infinity": torch.full_like(tensor, float("inf")),
        "1e38": torch.full_like(tensor, 1e38),
        "float64": tensor.double(),
        "float16": tensor.half(),
        "bfloat16": tensor.bfloat16(),
        "int64": tensor.long(),
        "bool": tensor.bool(),
        "complex": torch.complex(tensor, tensor),
        "uint8": tensor.to(torch.uint8),
        "transposed": tensor.t(),
        "a dimension more": tensor[None],
        "flat": tensor.reshape(-1),
        "scalar": torch.tensor(1.0),
        "empty": tensor[:0],
        "sparse": tensor.to_sparse(),
        "csr": tensor.to_sparse_csr(),
        "expanded": torch.zeros(1, 1).expand(tensor.shape),
        "expanded far": torch.zeros(1).expand(2**40),
        "meta": torch.empty(tensor.shape, device="meta"),
        "a parameter": torch.nn.Parameter(tensor),
        "a part of a large storage": torch.zeros(3_000_000)[: tensor.numel()].reshape(tensor.shape),
        "quantized": torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
        "nested": torch.nested.nested_tensor([tensor, tensor[:1]]),
        "a list": tensor.tolist(),
        "a number": 1.0,
        "None": None,
        "a text": "tensor",
    }
    for name, value in changed.items():
        yield f"{first} is {name}", saved({**valid, first: value})
    yield "a tensor is missing", saved({k: v for k, v in valid.items() if k != first})
    yield "old format", saved(valid, _use_new_zipfile_serialization=False)
    yield "a pickle", pickle.dumps({k: v.tolist() for k, v in list(valid.items())[-2:]})
    yield "a pickle that runs a command", pickle.dumps(Bomb())
    yield "a torch file that runs a command", saved({**valid, first: Bomb()})
    yield "a module", saved(torch.nn.Linear(2, 2))
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("archive/data.pkl", b"")
        file.writestr("../../../victim/keep.txt", b"touched")
    yield "an archive with paths", archive.getvalue()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", bytes(100_000_000))
    yield "an archive that is a bomb", archive.getvalue()


def _moments(valid: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    whole: dict[str, object] = {
        "a list": [1],
        "a tensor": torch.zeros(3),
        "None": None,
        "an empty dict": {},
        "no groups": {"state": valid["state"], "param_groups": []},
        "groups of text": {"state": valid["state"], "param_groups": "groups"},
        "a group more": {
            **valid,
            "param_groups": [*valid["param_groups"], valid["param_groups"][0]],
        },
        "no state": {**valid, "state": {}},
        "state is a list": {**valid, "state": [1]},
        "state is None": {**valid, "state": None},
        "other numbers": {**valid, "state": {k + 1000: v for k, v in valid["state"].items()}},
        "numbers as text": {**valid, "state": {str(k): v for k, v in valid["state"].items()}},
        "half of the state": {**valid, "state": dict(list(valid["state"].items())[::2])},
    }
    for name, value in whole.items():
        yield name, saved(value)
    entry = valid["state"][0]
    moment = entry["exp_avg"]
    for name, change in {
        "another shape": {"exp_avg": torch.zeros(3, 5)},
        "a smaller one": {"exp_avg_sq": moment[:1]},
        "a scalar": {"exp_avg": torch.tensor(1.0)},
        "empty": {"exp_avg": moment[:0]},
        "int64": {"exp_avg": moment.long()},
        "float64": {"exp_avg": moment.double()},
        "bool": {"exp_avg_sq": moment.bool()},
        "complex": {"exp_avg": torch.complex(moment, moment)},
        "sparse": {"exp_avg": moment.to_sparse()},
        "expanded": {"exp_avg": torch.zeros(1).expand(moment.shape)},
        "meta": {"exp_avg": torch.empty(moment.shape, device="meta")},
        "nan": {"exp_avg": torch.full_like(moment, float("nan"))},
        "infinity": {"exp_avg_sq": torch.full_like(moment, float("inf"))},
        "negative": {"exp_avg_sq": torch.full_like(moment, -1.0)},
        "None": {"exp_avg": None},
        "a list": {"exp_avg": [1.0]},
        "a number": {"exp_avg": 1.0},
        "step is negative": {"step": torch.tensor(-5.0)},
        "step is nan": {"step": torch.tensor(float("nan"))},
        "step is huge": {"step": torch.tensor(1e30)},
        "step is a vector": {"step": torch.zeros(4)},
        "step is a text": {"step": "one"},
        "step is None": {"step": None},
        "an unknown key": {"surprise\x1b[31m": torch.zeros(2)},
    }.items():
        yield (
            f"moment: {name}",
            saved({**valid, "state": {**valid["state"], 0: {**entry, **change}}}),
        )
    for key in entry:
        less = {k: v for k, v in entry.items() if k != key}
        yield f"moment: without {key}", saved({**valid, "state": {**valid["state"], 0: less}})
    yield "moment: none", saved({**valid, "state": {**valid["state"], 0: {}}})
    yield "moment: a list", saved({**valid, "state": {**valid["state"], 0: [1]}})
    for key, value in {
        "lr": "fast",
        "betas": None,
        "eps": float("nan"),
        "weight_decay": [1],
        "fused": "yes",
        "params": [0],
        "amsgrad": True,
        "maximize": True,
        "capturable": True,
        "foreach": 7,
        "step": 1,
    }.items():
        groups = [{**valid["param_groups"][0], key: value}, *valid["param_groups"][1:]]
        yield f"group: {key} is {value!r}", saved({**valid, "param_groups": groups})


def _into(folder: str) -> Callable[[Path], None]:
    """A training that begins with a copy of the model."""

    def change(repo: Path) -> None:
        import shutil

        if not (repo / folder).exists():
            shutil.copytree(repo / MODEL, repo / folder)
        values = json.loads((repo / "params.yaml").read_text())
        values["train"]["init_from"] = folder
        (repo / "params.yaml").write_text(dump(values))

    return change


def _both(*changes: Any) -> Callable[[Path], None]:
    def change(repo: Path) -> None:
        for one in changes:
            one(repo)

    return change


OTHER_TYPES = ("nan", "int64", "sparse", "meta", "expanded", "float64", "a parameter", "float16")


def _in_model(data: bytes, file: str = "model.pth") -> Callable[[Path], None]:
    return swapped(f"{MODEL}/{file}", data)


def _in_start(data: bytes | None, file: str, odd: str = "") -> Callable[[Path], None]:
    """In the folder that a training begins with."""
    return _both(_into(START), swapped(f"{START}/{file}", data, odd))


def _generate(name: str, change: Callable[[Path], None], **more: Any) -> Case:
    names = more.pop("names", ("config.json", "model.pth"))
    return Case(f"generate: {name}", GENERATE, change, names, shows_text=True, **more)


def _train(name: str, change: Callable[[Path], None], *names: str) -> Case:
    return Case(f"train: {name}", COMMANDS["train"], change, (*names, "loss"))


def _evaluate(name: str, change: Callable[[Path], None], *names: str) -> Case:
    return Case(f"evaluate: {name}", COMMANDS["evaluate"], change, names)


def _with_weights(folder: Path) -> Iterator[Case]:
    model = torch.load(folder / "model.pth", weights_only=True)
    for name, data in _weights({k: v.clone() for k, v in model.items()}):
        yield _generate(f"model.pth: {name}", _in_model(data), names=("model.pth",))
        if "is " in name or name in ("a list", "a number", "None"):
            yield _evaluate(f"best.pth: {name}", _in_model(data, "best.pth"), "best.pth")
        if name.endswith(OTHER_TYPES):
            yield _train(f"model.pth: {name}", _in_start(data, "model.pth"), "model.pth")
    for index in range(10):
        what, data = mutated((folder / "model.pth").read_bytes(), f"model {index}")
        yield _generate(f"model.pth: {index}: {what}", _in_model(data))
        yield Case(f"export: model.pth: {index}: {what}", EXPORT, _in_model(data), ("model.pth",))
        what, data = mutated((folder / "best.pth").read_bytes(), f"best {index}")
        yield _evaluate(f"best.pth: {index}: {what}", _in_model(data, "best.pth"), "best.pth")


def _with_moments(folder: Path) -> Iterator[Case]:
    file = "optimizer.pth"
    for name, data in _moments(torch.load(folder / file, weights_only=True)):
        yield _train(f"{file}: {name}", _in_start(data, file), file)
    for index in range(12):
        what, data = mutated((folder / file).read_bytes(), f"optimizer {index}")
        yield _train(f"{file}: {index}: {what}", _in_start(data, file), file)


def _with_settings(folder: Path) -> Iterator[Case]:
    config = json.loads((folder / "config.json").read_text())
    for name, text in json_mutations(config, "config.json", 40):
        data = text.encode("utf-8", "surrogatepass")
        yield _generate(f"config.json: {name}", _in_model(data, "config.json"))
    keys = ("n_layer", "n_embd", "n_head", "context_length", "vocab_size")
    for key, size in product(keys, (0, -1, 10**9, 2**63, 1.5, True, "12")):
        change = _in_model(dump({**config, key: size}).encode(), "config.json")
        yield _generate(f"config.json: {key} {size!r}", change, fails=True)
    start = json.loads((folder / "start.json").read_text())
    for name, text in json_mutations(start, "start.json", 20):
        change = _in_model(text.encode("utf-8", "surrogatepass"), "start.json")
        yield _evaluate(f"start.json: {name}", change, "start.json", "init_from")


def _with_odd_files() -> Iterator[Case]:
    for odd in ODD:
        for file in ("model.pth", "config.json"):
            change = swapped(f"{MODEL}/{file}", None, odd)
            yield _generate(f"{file} is {odd}", change, names=(file,), fails=True)
        change = swapped(f"{MODEL}/best.pth", None, odd)
        yield _evaluate(f"best.pth is {odd}", change, "best.pth")
        yield _train(
            f"optimizer.pth is {odd}", _in_start(None, "optimizer.pth", odd), "optimizer.pth"
        )


def cases(finished: Path) -> Iterator[Case]:
    folder = finished / "repo" / MODEL
    yield _generate("unharmed", lambda repo: None, fails=False)
    yield Case("train: unharmed", COMMANDS["train"], _into(START), fails=False)
    yield from _with_weights(folder)
    yield from _with_moments(folder)
    yield from _with_settings(folder)
    yield from _with_odd_files()


def test_saved(arena: Arena, finished: Path) -> None:
    arena.check("saved", cases(finished), finished)
