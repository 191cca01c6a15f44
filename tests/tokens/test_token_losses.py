"""Losses by token on disk: what is written is read, and anything else is refused by its name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.system.checksums import SUMS, write_sums
from pipeline.tokens.splits import Splits
from pipeline.tokens.token_losses import TokenLosses, kept_losses, require_same_tokens
from tests.helpers.tokens import write_split

LENGTH = 4


@pytest.fixture
def splits(tmp_path: Path) -> Splits:
    for name, tokens in (("train", 30), ("val", 42), ("test", 9)):
        write_split(tmp_path / "tokens" / name, range(tokens))
    return Splits.open(tmp_path / "tokens", LENGTH, most=4)


@pytest.fixture
def folder(tmp_path: Path, splits: Splits) -> Path:
    with kept_losses(tmp_path / "losses", splits, ["a", "b"]) as kept:
        for name in ("a", "b"):
            for split, indices in splits.measured.items():
                for index in indices:
                    kept.append(name, split, np.full((1, LENGTH), index + ord(name), "f4"))
    return tmp_path / "losses"


def test_losses_come_back_with_the_windows_that_they_are_of(folder: Path, splits: Splits) -> None:
    kept = TokenLosses.open(folder)
    assert list(kept.windows("val")) == [0, 3, 6, 9] == list(splits.val.spread(4))
    assert list(kept.windows("test")) == [0, 1]
    for model in kept.meta.models:
        for split in kept.meta.splits:
            expected = [[index + ord(model)] * LENGTH for index in kept.windows(split)]
            found = kept.of(model, split)
            assert isinstance(found, np.memmap)
            assert found.tolist() == expected
    require_same_tokens({folder: kept.meta}, splits)
    assert sorted(path.name for path in folder.glob("*.npy")) == sorted(
        f"{model}.{split}.npy" for model in "ab" for split in ("val", "test")
    )


def test_an_error_on_the_way_leaves_what_was_there(folder: Path, splits: Splits) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(KeyError), kept_losses(folder, splits, ["a"]) as kept:
        kept.append("nobody", "val", np.zeros((1, LENGTH), "f4"))
    with pytest.raises(AssertionError), kept_losses(folder, splits, ["a"]) as kept:
        kept.append("a", "val", np.zeros((1, LENGTH), "f4"))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "a.val.npy: No such file"),
        (b"", "a.val.npy: no array of losses"),
        (b"\x93NUMPY\x01\x00", "a.val.npy: no array of losses"),
        (np.zeros((3, LENGTH), "f4"), r"a.val.npy: float32 of shape \(3, 4\), where float32 of"),
        (np.zeros((4, LENGTH), "f8"), r"a.val.npy: float64 of shape"),
        (np.array([[{}] * LENGTH] * 4, object), "a.val.npy: no array of losses"),
    ],
)
def test_what_is_no_array_of_these_losses(
    folder: Path, content: bytes | np.ndarray | None, said: str
) -> None:
    path = folder / "a.val.npy"
    if isinstance(content, np.ndarray):
        np.save(path, content, allow_pickle=True)
    elif content is not None:
        path.write_bytes(content)
    else:
        path.unlink()
    write_sums(folder)
    with pytest.raises(UserError, match=said):
        TokenLosses.open(folder)


@pytest.mark.parametrize("key", ["windows", "stride"])
def test_a_number_beyond_any_disk(folder: Path, key: str) -> None:
    meta = json.loads((folder / "meta.json").read_text())
    meta["splits"]["val"][key] = 2**63
    (folder / "meta.json").write_text(json.dumps(meta))
    write_sums(folder)
    with pytest.raises(UserError, match=rf"meta\.json: splits\.val\.{key}"):
        TokenLosses.open(folder)


def test_a_changed_loss_is_noticed(folder: Path) -> None:
    path = folder / "b.test.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(UserError, match=rf"b\.test\.npy: its SHA-256 is .* {SUMS}"):
        TokenLosses.open(folder)


def test_other_tokens_are_refused(folder: Path, tmp_path: Path) -> None:
    """Of equal corpus, count and windows: one token differs."""
    tokens = [*range(41), 7]
    write_split(tmp_path / "tokens" / "val", tokens)
    with pytest.raises(UserError, match=r"meta\.json: splits\.val is not that of the tokens on"):
        require_same_tokens(
            {folder: TokenLosses.open(folder).meta}, Splits.open(tmp_path / "tokens", LENGTH)
        )
