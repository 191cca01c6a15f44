"""Whatever a server does, a file is right or is not there, and no byte comes twice for nothing."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from email.utils import formatdate
from pathlib import Path

import pytest
import requests

from pipeline.errors import Unavailable, UserError
from pipeline.gpt2.download import Download
from pipeline.gpt2.network import Patience
from tests.helpers.hostile import Fault, Hostile

BODY = random.Random(0).randbytes(300_000)
OTHER = random.Random(1).randbytes(300_000)  # the same size
SHA256 = hashlib.sha256(BODY).hexdigest()
PATH = "/124M/model.ckpt.data-00000-of-00001"


@pytest.fixture(autouse=True)
def served(hostile: Hostile) -> None:
    hostile.files[PATH] = BODY


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "data"


def download(hostile: Hostile, target: Path, patience: Patience, **how: object) -> str:
    with requests.Session() as session:
        return Download(session, hostile.address + PATH, target, patience, **how).run()  # type: ignore[arg-type]


def leftovers(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir())


HEALS = {
    "nothing wrong": [],
    "dropped halfway": [Fault(cut=150_000)],
    "dropped before the first byte": [Fault(cut=0)],
    "dropped again and again": [Fault(cut=70_000)] * 4,
    "dropped without a length": [Fault(cut=150_000, chunked=True)],
    "stalls halfway": [Fault(stall=150_000)],
    "trickles": [Fault(stall=150_000, trickle=True)],
    "ignores ranges": [Fault(cut=150_000), Fault(deaf=True)],
    "ignores ranges and drops": [Fault(cut=150_000), Fault(deaf=True, cut=200_000)],
    "500": [Fault(status=500)],
    "503 with a page": [Fault(status=503, body=b"<html>sorry")],
    "429": [Fault(status=429, headers={"Retry-After": "7"})],
    "408 halfway": [Fault(cut=150_000), Fault(status=408)],
    "range not satisfiable": [Fault(cut=150_000), Fault(status=416)],
    "another range than asked for": [Fault(cut=150_000), Fault(shift=1000)],
    "range of a file of another size": [
        Fault(cut=150_000),
        Fault(headers={"Content-Range": "bytes 150000-299998/299999"}),
    ],
    "range under another ETag": [Fault(cut=150_000), Fault(headers={"ETag": '"other"'})],
    "range of thousands of digits": [
        Fault(cut=150_000),
        Fault(headers={"Content-Range": f"bytes 150000-299999/{'3' * 5000}"}),
    ],
    "length of letters": [Fault(headers={"Content-Length": "abc"})],
    "length of a digit that is none": [Fault(headers={"Content-Length": "\xb3"})],
    "wrong Content-MD5 once": [Fault(headers={"Content-MD5": "AAAA"})],
    "altered once": [Fault(body=OTHER)],
    "chunked": [Fault(chunked=True)],
    "weak ETag": [Fault(cut=150_000, headers={"ETag": 'W/"1"'})],
    "no validator": [Fault(cut=150_000, headers={"ETag": None})],
}
WHOLE_AGAIN = {  # what came before cannot be trusted, or cannot be continued
    "ignores ranges",
    "ignores ranges and drops",
    "range of thousands of digits",
    "range not satisfiable",
    "another range than asked for",
    "range of a file of another size",
    "range under another ETag",
    "wrong Content-MD5 once",
    "altered once",
}


@pytest.mark.parametrize("fault", HEALS)
def test_a_fault_that_passes_ends_in_the_right_file(
    fault: str, hostile: Hostile, target: Path, patience: Patience
) -> None:
    hostile.faults = list(HEALS[fault])
    assert download(hostile, target, patience, expected=len(BODY)) == SHA256
    assert target.read_bytes() == BODY
    assert leftovers(target) == ["data"]
    if fault == "trickles":  # a byte or two more may leave the server while the client hangs up
        first, rest = hostile.requests
        assert rest.range == f"bytes={len(BODY) - rest.sent}-"
        assert rest.sent < len(BODY) - 150_000 < len(BODY) <= first.sent + rest.sent
    elif fault not in WHOLE_AGAIN:
        assert hostile.sent() - len(b"<html>sorry") * (fault == "503 with a page") == len(BODY)


ENDS = {
    "404": (Fault(status=404), "answers 404 Not Found"),
    "403": (Fault(status=403), "answers 403 Forbidden"),
    "always 500": (Fault(status=500), "answers 500, 5 times in a row"),
    "always 429": (Fault(status=429), "answers 429, 5 times in a row"),
    "a wait of an hour": (
        Fault(status=429, headers={"Retry-After": "3600"}),
        "answers 429 and asks for a long wait",
    ),
    "a wait until tomorrow": (
        Fault(status=503, headers={"Retry-After": formatdate(time.time() + 86400, usegmt=True)}),
        "answers 503 and asks for a long wait",
    ),
    "HTML page": (
        Fault(body=b"<html>log in</html>", headers={"Content-Type": "text/html"}),
        "is a web page",
    ),
    "HTML page of the right size that says it is not": (
        Fault(body=b"<!DOCTYPE html><html>".ljust(len(BODY))),
        "is a web page",
    ),
    "wrong size": (Fault(body=BODY[:-1]), "has 299,999 bytes, but must have 300,000"),
    "always dropped at once": (Fault(cut=0), "breaks off, 5 times in a row"),
    "always dropped early": (Fault(cut=100, deaf=True), "breaks off, 5 times in a row"),
    "always stalls": (Fault(stall=0), "stalls, 5 times in a row"),
    "never answers right": (Fault(headers={"Content-MD5": "AAAA"}), "does not match its Content"),
    "always altered": (Fault(body=OTHER, headers={"Content-MD5": "AAAA"}), "does not match"),
    "compressed": (Fault(headers={"Content-Encoding": "gzip"}), "comes compressed"),
    "redirect in a circle": (Fault(status=302, headers={"Location": PATH}), "cannot be followed"),
    "redirect to a file": (
        Fault(status=302, headers={"Location": "file:///etc/hostname"}),
        "cannot be followed",
    ),
    "redirect to no URL": (
        Fault(status=302, headers={"Location": "http://[::1"}),
        "cannot be followed",
    ),
    "redirect to no host": (
        Fault(status=302, headers={"Location": "http://a..b/x"}),
        "cannot be followed",
    ),
    "redirect to no text": (
        Fault(status=302, headers={"Location": "/\xff\xfe"}),
        "cannot be followed",
    ),
    "redirect to itself and more": (
        Fault(status=301, headers={"Location": "?again"}),
        "cannot be followed",
    ),
    "endless": (Fault(body=BODY * 2, chunked=True), "sends more than it should"),
    "short without a length": (
        Fault(body=BODY[:-1], chunked=True, deaf=True),
        "breaks off after 299,999",
    ),
}


@pytest.mark.parametrize("fault", ENDS)
def test_a_fault_that_stays_ends_in_one_line_and_no_file(
    fault: str, hostile: Hostile, target: Path, patience: Patience
) -> None:
    hostile.always, message = ENDS[fault]
    with pytest.raises(Unavailable, match=message) as error:
        download(hostile, target, patience, expected=len(BODY))
    assert not target.exists()
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(hostile.address + PATH)


def test_a_redirect_is_followed_and_resumed(
    hostile: Hostile, target: Path, patience: Patience
) -> None:
    hostile.files["/elsewhere"] = BODY
    moved = Fault(status=302, headers={"Location": "/elsewhere"})
    hostile.faults = [moved, Fault(cut=100_000), moved]
    download(hostile, target, patience)
    assert target.read_bytes() == BODY
    assert hostile.sent("/elsewhere") == len(BODY)


def test_a_redirects_own_body_is_not_read(
    hostile: Hostile, target: Path, patience: Patience, waits: list[float]
) -> None:
    """It may be endless."""
    hostile.files["/elsewhere"] = BODY
    endless = Fault(status=302, headers={"Location": "/elsewhere"}, body=b"x" * 10**6, stall=1000)
    hostile.faults = [endless]
    download(hostile, target, patience)
    assert target.read_bytes() == BODY
    assert waits == []


def test_what_comes_too_slowly_is_given_up_and_kept(hostile: Hostile, target: Path) -> None:
    hours = itertools.count(step=2000)
    patience = Patience(clock=lambda: float(next(hours)), stall=1e9)
    with pytest.raises(Unavailable, match="takes too long; a later attempt goes on"):
        download(hostile, target, patience, expected=len(BODY))
    assert target.with_name("data.part").stat().st_size > 0


def test_drops_at_random_bytes_cost_nothing(
    hostile: Hostile, target: Path, patience: Patience
) -> None:
    """Far more breaks than attempts in a row: each brings more than `PROGRESS` bytes."""
    hostile.files[PATH] = body = BODY * 10
    drawn = random.Random(2)
    hostile.faults = [Fault(cut=drawn.randrange(70_000, 200_000)) for _ in range(12)]
    download(hostile, target, patience)
    assert target.read_bytes() == body
    assert hostile.sent() == len(body)
    assert len(hostile.requests) == 13


def test_a_file_that_changes_on_the_way_comes_whole_and_new(
    hostile: Hostile, target: Path, patience: Patience
) -> None:
    hostile.faults = [Fault(cut=150_000)]

    def change(seconds: float) -> None:
        hostile.files[PATH] = OTHER

    patient = Patience(stall=patience.stall, sleep=change)
    download(hostile, target, patient)
    assert target.read_bytes() == OTHER


def test_waits_grow_and_are_the_server_s_where_it_says(
    hostile: Hostile, target: Path, patience: Patience, waits: list[float]
) -> None:
    hostile.faults = [
        Fault(status=500),
        Fault(status=502),
        Fault(status=429, headers={"Retry-After": "7"}),
        Fault(status=504),
    ]
    download(hostile, target, patience)
    assert waits == [1, 2, 7, 8]


def test_waits_are_spread_and_bounded() -> None:
    low, high = Patience(jitter=lambda: 0.0), Patience(jitter=lambda: 1.0)
    assert [low.wait_after(n) for n in (1, 2, 6, 50)] == [0.5, 1, 15, 15]
    assert [high.wait_after(n) for n in (1, 2, 6, 50)] == [1.5, 3, 45, 45]


def test_a_killed_process_s_bytes_are_not_fetched_again(
    hostile: Hostile, target: Path, patience: Patience
) -> None:
    hostile.faults = [Fault(stall=200_000)]
    script = (
        "import requests, sys; from pathlib import Path;"
        "from pipeline.gpt2.download import Download; from pipeline.gpt2.network import Patience;"
        "Download(requests.Session(), sys.argv[1], Path(sys.argv[2]), Patience()).run()"
    )
    child = subprocess.Popen([sys.executable, "-c", script, hostile.address + PATH, str(target)])
    part = target.with_name("data.part")
    while not (part.exists() and part.stat().st_size >= 196_608):  # all but the file's buffer
        assert child.poll() is None
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    have = part.stat().st_size
    download(hostile, target, patience)
    assert target.read_bytes() == BODY
    assert hostile.requests[-1].range == f"bytes={have}-"
    assert hostile.requests[-1].sent == len(BODY) - have


def test_a_whole_part_needs_no_request(hostile: Hostile, target: Path, patience: Patience) -> None:
    """A kill between the last byte and the renaming."""
    left(target, BODY, hostile.address + PATH, {})
    assert download(hostile, target, patience) == SHA256
    assert hostile.requests == []


LEFT = {
    "longer than the file": (BODY + b"more", {}),
    "of another address": (BODY[:1000], {"url": "http://127.0.0.1:1/data"}),
    "of a file of another size": (BODY[:1000], {"total": 1234}),
    "without a size": (BODY[:1000], {"total": None}),
    "with a note of other types": (BODY[:1000], {"total": [1], "validator": 5}),
    "with a header in its note": (BODY[:1000], {"validator": '"x"\r\nHost: elsewhere'}),
    "with a torn note": (BODY[:1000], None),
    "with a note of other keys": (BODY[:1000], {"what": 1}),
}


@pytest.mark.parametrize("case", LEFT)
def test_a_part_that_nobody_vouches_for_is_dropped(
    case: str, hostile: Hostile, target: Path, patience: Patience
) -> None:
    content, note = LEFT[case]
    left(target, content, hostile.address + PATH, note)
    download(hostile, target, patience, expected=len(BODY))
    assert target.read_bytes() == BODY
    assert hostile.requests[0].range is None
    assert leftovers(target) == ["data"]


def left(target: Path, content: bytes, url: str, changed: dict | None) -> None:
    """What a killed process leaves; None for a note that is torn."""
    target.parent.mkdir(parents=True)
    target.with_name("data.part").write_bytes(content)
    note = {"url": url, "validator": None, "total": len(BODY), "md5": None} | (changed or {})
    text = json.dumps(note)[: 10 if changed is None else None]
    target.with_name("data.part.json").write_text(text)


def test_bytes_that_changed_in_the_part_are_noticed(
    hostile: Hostile, target: Path, patience: Patience
) -> None:
    hostile.faults = [Fault(cut=150_000)]
    part = target.with_name("data.part")

    def spoil(seconds: float) -> None:
        if not waited:
            part.write_bytes(b"x" + part.read_bytes()[1:])
        waited.append(seconds)

    waited: list[float] = []
    download(hostile, target, Patience(stall=patience.stall, sleep=spoil))
    assert len(waited) == 2  # a break, and a digest that is wrong
    assert target.read_bytes() == BODY


def test_a_full_disk_is_noticed_before_the_first_byte(
    hostile: Hostile, target: Path, patience: Patience, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")._replace(free=len(BODY))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(Unavailable, match="LOSSBOOK_CACHE"):
        download(hostile, target, patience)
    assert leftovers(target) == []


def test_a_disk_that_fills_up_ends_in_one_line_and_keeps_the_part(
    hostile: Hostile, target: Path, patience: Patience
) -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, hard))
    try:
        with pytest.raises(Unavailable, match="data cannot be written: File too large"):
            download(hostile, target, patience)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert not target.exists()
    download(hostile, target, patience)
    assert target.read_bytes() == BODY
    assert hostile.requests[-1].range == "bytes=150000-"


def test_content_that_is_not_right_is_refused(
    hostile: Hostile, target: Path, patience: Patience
) -> None:
    def refuse(path: Path) -> None:
        assert path.read_bytes() == BODY
        raise UserError("not this")

    with pytest.raises(UserError, match="not this"):
        download(hostile, target, patience, check=refuse)
    assert leftovers(target) == []


def test_a_file_of_unknown_size_must_say_its_length(
    hostile: Hostile, target: Path, patience: Patience
) -> None:
    hostile.always = Fault(headers={"Content-Length": None})
    with pytest.raises(Unavailable, match="does not say how long it is"):
        download(hostile, target, patience)
    assert download(hostile, target, patience, expected=len(BODY)) == SHA256


def test_progress_tells_what_is_there(hostile: Hostile, target: Path, patience: Patience) -> None:
    hostile.faults = [Fault(cut=150_000)]
    told: list[tuple[int, int | None]] = []
    download(hostile, target, patience, on_progress=lambda *now: told.append(now))
    assert told == sorted(told)
    assert told[-1] == (len(BODY), len(BODY))
