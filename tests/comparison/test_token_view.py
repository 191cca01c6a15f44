"""Tokens joined into whole characters, with every model's losses."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.comparison.kept import read_kept
from pipeline.comparison.table import read_comparison
from pipeline.comparison.token_view import TokenView, token_view, whole_characters
from pipeline.errors import UserError
from pipeline.system.checksums import write_sums
from pipeline.tokens.splits import Splits
from pipeline.tokens.token_losses import TokenLosses
from pipeline.tokens.tokenizer import encode, token_bytes

GOLDEN = Path(__file__).parents[1] / "golden" / "comparison"


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN, tmp_path / "reports"))


def view_of(reports: Path) -> TokenView | None:
    comparison = read_comparison(
        reports / "evaluate.json", reports / "train.json", reports / "baselines", ["124M", "1558M"]
    )
    splits = Splits.open(reports / "tokens", 8)
    kept = read_kept(comparison, reports / "token_losses", splits)
    return token_view(comparison, kept, token_bytes)


def test_each_measured_model_has_a_loss_for_each_piece(reports: Path) -> None:
    view = view_of(reports)
    assert view is not None
    assert view.models == ("scratch (best)", "scratch (last)", "GPT-2 small (124M)")
    first, second, third = view.windows
    assert "".join(piece.text for piece in first) == "He said <b>no</b"
    assert [piece.text for piece in second] == [">", " &", " left", " 🙂", "\n", "\n", "“"]
    assert "".join(piece.text for piece in third) == "Well, café”, she sang"
    assert first[1].losses == pytest.approx((6.0, 6.6, 3.0))
    assert second[-1].tokens == 2
    # The losses of a character's two tokens are added.
    best = TokenLosses.open(reports / "token_losses/scratch").of("best", "val")
    assert second[-1].losses[0] == float(best[1, 6]) + float(best[1, 7])


def test_a_model_without_losses_is_left_out(reports: Path) -> None:
    shutil.rmtree(reports / "token_losses" / "124M")
    view = view_of(reports)
    assert view is not None
    assert view.models == ("scratch (best)", "scratch (last)")
    shutil.rmtree(reports / "token_losses" / "scratch")
    assert view_of(reports) is None


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("corpus_sha256", "6" * 64, "corpus_sha256"),
        ("context_length", 12, "context_length"),
        ("splits", {"val": {"sha256": "7" * 64, "windows": 3, "stride": 1}}, r"splits\.val"),
        ("splits", {}, r"splits\.val"),
    ],
)
def test_losses_of_other_tokens_are_refused(
    reports: Path, key: str, value: object, named: str
) -> None:
    folder = reports / "token_losses" / "124M"
    path = folder / "meta.json"
    meta = json.loads(path.read_text()) | {key: value}
    path.write_text(json.dumps(meta))
    if key == "context_length":
        np.save(folder / "124M.val.npy", np.zeros((3, 12), "f4"))
    write_sums(folder)
    with pytest.raises(UserError, match=f"{named} is not that of the tokens on disk") as error:
        view_of(reports)
    assert str(path) in str(error.value)


def test_as_many_losses_as_tokens(reports: Path) -> None:
    folder = reports / "token_losses" / "scratch"
    np.save(folder / "last.val.npy", np.zeros((2, 8), "f4"))
    write_sums(folder)
    with pytest.raises(UserError, match=r"last\.val\.npy: float32 of shape \(2, 8\), where"):
        view_of(reports)


def check_pieces(parts: list[bytes]) -> list[str]:
    """Every part is in one piece, in order; return the pieces' texts."""
    pieces = list(whole_characters(parts))
    places = [place for _, begin, stop in pieces for place in range(begin, stop)]
    assert places == list(range(len(parts)))
    return [text for text, _, _ in pieces]


@given(st.text(), st.data())
@settings(max_examples=60, deadline=None)
def test_text_cut_anywhere_comes_back_whole(text: str, data: st.DataObject) -> None:
    whole = text.encode("utf-8", errors="replace")
    cuts = sorted(data.draw(st.sets(st.integers(0, len(whole)))) | {0, len(whole)})
    texts = check_pieces([whole[a:b] for a, b in itertools.pairwise(cuts)])
    assert "".join(texts) == whole.decode()


@given(st.lists(st.binary(max_size=4), max_size=12))
@settings(max_examples=60, deadline=None)
def test_bytes_that_are_no_text_lose_no_token(parts: list[bytes]) -> None:
    check_pieces(parts)


def test_a_character_cut_by_the_edge_of_a_window() -> None:
    smile = [token_bytes(token) for token in encode("a 🤖")]
    assert len(smile) == 4  # "a", and three for the robot and its blank
    assert check_pieces(smile) == ["a", " 🤖"]
    assert check_pieces(smile[:-1]) == ["a", " <F0 9F A4>"]
    assert check_pieces([*smile[-1:], b"ok"]) == ["<96>", "ok"]
