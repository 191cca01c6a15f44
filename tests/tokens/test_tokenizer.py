"""GPT-2's tokens: the known ids, any text there and back, and no network."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.tokens import tokenizer
from pipeline.tokens.tokenizer import (
    END_OF_TEXT,
    byte_lengths,
    decode,
    encode,
    encode_piece,
    encoding,
    own_encoding,
    pieces,
    token_bytes,
)

quick = settings(max_examples=60, deadline=None)
# Where GPT-2's pattern looks closely: blanks of all kinds, contractions, letters, digits, marks.
tricky = st.text(alphabet=" \n\t\r\x1c\u00a0\u3000'stdlve1\u00e9\u4e2d.<|>-", max_size=60)

OFFLINE = """
import socket
def refuse(*_): raise OSError("no network here")
socket.socket.connect = socket.getaddrinfo = refuse
from pipeline.tokens.tokenizer import encode
print(encode("Hello, I am"))
"""


def start_offline(environment: dict[str, str]) -> subprocess.Popen[str]:
    clean = {
        k: v for k, v in os.environ.items() if k not in ("TIKTOKEN_CACHE_DIR", "LOSSBOOK_CACHE")
    }
    return subprocess.Popen(
        [sys.executable, "-c", OFFLINE],
        env=clean | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_offline(environment: dict[str, str]) -> str:
    process = start_offline(environment)
    out, err = process.communicate()
    assert process.returncode == 0, err
    return out.strip()


def test_ids_are_gpt2s() -> None:
    assert encode("Hello, I am") == [15496, 11, 314, 716]
    assert encode("Every effort moves you") == [6109, 3626, 6100, 345]
    assert encode("") == []


def test_special_token_strings_are_ordinary_text() -> None:
    tokens = encode("a<|endoftext|>b")
    assert END_OF_TEXT not in tokens
    assert decode(tokens) == "a<|endoftext|>b"
    assert decode([END_OF_TEXT]) == "<|endoftext|>"


@quick
@given(st.text() | tricky)
@example("\ufeff\x00<|endoftext|>\r\n")
def test_any_text_survives(text: str) -> None:
    assert decode(encode(text)) == text
    assert encode(text) == encoding().encode_ordinary(text) == encode_piece(text).tolist()


def test_a_cut_character_becomes_a_mark() -> None:
    assert decode(encode("🙂")[:1]) == "\ufffd"


@quick
@given(st.text() | tricky, st.integers(1, 20))
def test_pieces_join_to_the_text(text: str, size: int) -> None:
    cut = list(pieces(text, size))
    assert "".join(cut) == text
    assert all(1 <= len(piece) <= size for piece in cut)


@quick
@given(tricky, st.integers(1, 20))
@example("a  b c", 3)
@example("we've it's ' s", 4)
def test_tokens_of_pieces_are_the_texts(text: str, size: int) -> None:
    cut = list(pieces(text, size))
    ends = pairwise(cut)
    assume(all(b[0] in " \n" and not a[-1].isspace() for a, b in ends))  # no cut was forced
    assert [token for piece in cut for token in encode(piece)] == encode(text)


def test_cuts_are_not_forced_where_words_are_short() -> None:
    text = "It was a bright cold day in April.\n\nAnd the clocks...  " * 50
    cut = list(pieces(text, 24))
    assert len(cut) > 100
    assert [token for piece in cut for token in encode(piece)] == encode(text)


def test_a_million_blanks_do_not_end_the_process() -> None:
    text = " " * 1_100_000 + "x"
    assert decode(encode(text)) == text


def test_byte_lengths() -> None:
    lengths = byte_lengths()
    assert lengths.shape == (50257,)
    assert lengths[END_OF_TEXT] == 0
    assert [lengths[t] == len(token_bytes(t)) for t in (0, 15496, 50255)] == [True] * 3
    text = "naïve — 中文 🙂"
    assert lengths[encode(text)].sum() == len(text.encode("utf-8"))


def test_works_without_a_network_in_a_cache_of_its_own(tmp_path: Path) -> None:
    assert run_offline({"LOSSBOOK_CACHE": str(tmp_path)}) == "[15496, 11, 314, 716]"
    laid = sorted(path.name for path in (tmp_path / "tiktoken").iterdir())
    assert len(laid) == 2

    # A damaged file is replaced, not believed and not downloaded.
    damaged = tmp_path / "tiktoken" / laid[0]
    damaged.write_bytes(b"nonsense")
    assert run_offline({"LOSSBOOK_CACHE": str(tmp_path)}) == "[15496, 11, 314, 716]"
    assert damaged.stat().st_size > 400_000


def test_lays_into_the_users_tiktoken_cache(tmp_path: Path) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    run_offline({"TIKTOKEN_CACHE_DIR": str(own), "LOSSBOOK_CACHE": str(other)})
    assert len(list(own.iterdir())) == 2
    assert not other.exists()


def test_processes_may_start_together(tmp_path: Path) -> None:
    processes = [start_offline({"LOSSBOOK_CACHE": str(tmp_path)}) for _ in range(4)]
    outputs = [process.communicate() for process in processes]
    assert [out.strip() for out, _ in outputs] == ["[15496, 11, 314, 716]"] * 4
    assert len(list((tmp_path / "tiktoken").iterdir())) == 2


def test_a_cache_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(UserError, match="TIKTOKEN_CACHE_DIR"):
        tokenizer._load.__wrapped__()


def test_every_thread_has_an_encoding_of_its_own() -> None:
    with ThreadPoolExecutor(1) as pool:
        theirs = [pool.submit(own_encoding).result() for _ in range(2)]
    assert theirs[0] is theirs[1]
    assert theirs[0] is not own_encoding()
    assert theirs[0].encode("Hello, I am") == own_encoding().encode("Hello, I am")
    assert own_encoding() is own_encoding()


def test_no_text_is_cut_in_time_that_grows_faster_than_its_length() -> None:
    """Blanks that begin with a tab are no place for a cut, and none of them is looked at twice."""
    text = "foo\t " * 400_000
    started = time.process_time()
    assert "".join(pieces(text)) == text
    assert time.process_time() - started < 5  # a second; it was 14
