"""A size is fetched once, is read through before it counts, and is watched afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from pipeline.errors import Unavailable, UserError
from pipeline.gpt2 import release
from pipeline.gpt2.fetch import fetch, verify_apart, verify_here
from pipeline.gpt2.load import load_gpt2
from pipeline.gpt2.location import locate
from pipeline.gpt2.network import Patience
from pipeline.gpt2.release import DATA, FILES, HPARAMS, INDEX
from pipeline.gpt2.sizes import SIZES
from pipeline.params import Gpt2
from pipeline.system.files import sha256_of
from pipeline.weights import find
from tests.helpers.checkpoints import TINY
from tests.helpers.hostile import Fault, Hostile

Write = Callable[..., Path]
Fetch = Callable[..., dict]


@pytest.fixture(autouse=True)
def own_cache(cache: Path) -> None:
    pass


@pytest.fixture
def mirror(hostile: Hostile, tiny: Path) -> Gpt2:
    serve(hostile, tiny)
    return Gpt2(mirror=hostile.address)


@pytest.fixture
def bring(patience: Patience) -> Fetch:
    """`fetch`, without the seconds that a process of its own for TensorFlow takes."""

    def bring(settings: Gpt2, size: str = "124M") -> dict:
        return fetch(size, settings, patience=patience, verify=verify_here).model_dump()

    return bring


@pytest.fixture
def quick_verify(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.gpt2.fetch.verify_apart", verify_here)


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny data counts as large: its index is looked at before it comes."""
    monkeypatch.setattr("pipeline.gpt2.fetch.LARGE", 1)


def serve(hostile: Hostile, folder: Path, under: str = "/124M") -> None:
    for name in FILES:
        hostile.files[f"{under}/{name}"] = (folder / name).read_bytes()


def altered(content: bytes, place: int = 1000) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def asked(hostile: Hostile) -> list[str]:
    names = [request.path.rsplit("/", 1)[1] for request in hostile.requests]
    hostile.requests.clear()
    return names


def test_a_mirror_is_believed_fetched_once_and_needed_no_more(
    mirror: Gpt2, hostile: Hostile, tiny: Path, bring: Fetch
) -> None:
    report = bring(mirror)
    assert report == {
        "model": "124M",
        "status": "available",
        "reason": None,
        "source": "mirror",
        "host": "127.0.0.1",
        "files": {
            name: {"bytes": (tiny / name).stat().st_size, "sha256": sha256_of(tiny / name)}
            for name in FILES
        },
    }
    assert asked(hostile) == list(FILES)
    assert bring(mirror) == report
    assert asked(hostile) == []
    assert load_gpt2("124M", mirror).count_parameters() == TINY.parameters


def test_the_reading_process_tells_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.json: no such file"):
        verify_apart("huggingface", tmp_path, True)


def test_nobody_there_is_unavailable_and_required_is_an_error(bring: Fetch) -> None:
    settings = Gpt2(mirror="http://127.0.0.1:1")
    report = bring(settings)
    reason = "127.0.0.1 cannot be reached (Connection refused)"
    assert (report["status"], report["reason"], report["files"]) == ("unavailable", reason, {})
    with pytest.raises(UserError, match=r"GPT-2 124M cannot be had, and gpt2\.required is true"):
        bring(settings.model_copy(update={"required": True}))


def test_what_came_before_the_server_went_is_kept(
    mirror: Gpt2, hostile: Hostile, tiny: Path, bring: Fetch
) -> None:
    del hostile.files[f"/124M/{DATA}"]
    report = bring(mirror)
    assert report["reason"] == f"{hostile.address}/124M/{DATA} answers 404 Not Found"
    asked(hostile)
    serve(hostile, tiny)
    assert bring(mirror)["status"] == "available"
    assert asked(hostile) == [DATA]


@pytest.mark.usefixtures("large", "quick_verify")
def test_altered_data_of_the_right_size_is_refused_and_only_it_is_fetched_again(
    mirror: Gpt2, hostile: Hostile, tiny: Path, bring: Fetch
) -> None:
    right = hostile.files[f"/124M/{DATA}"]
    hostile.files[f"/124M/{DATA}"] = altered(right)
    hostile.always = Fault(headers={"Content-MD5": None})
    report = bring(mirror)
    assert report["status"] == "unavailable"
    assert report["reason"].startswith(f"{hostile.address}/124M/{DATA}: tensor model/")
    assert report["reason"].endswith("cannot be read: it is damaged")
    with pytest.raises(UserError, match=r"GPT-2 124M cannot be had: .* it is damaged"):
        load_gpt2("124M", mirror)
    asked(hostile)
    hostile.files[f"/124M/{DATA}"] = right
    assert bring(mirror)["status"] == "available"
    assert asked(hostile) == [DATA]


@pytest.mark.usefixtures("large")
def test_an_altered_index_is_refused_before_the_data_comes(
    mirror: Gpt2, hostile: Hostile, bring: Fetch
) -> None:
    hostile.files[f"/124M/{INDEX}"] = altered(hostile.files[f"/124M/{INDEX}"], 100)
    hostile.always = Fault(headers={"Content-MD5": None})
    report = bring(mirror)
    assert report["reason"] == f"{hostile.address}/124M/{INDEX} cannot be read: it is damaged"
    assert DATA not in asked(hostile)


@pytest.mark.usefixtures("large")
def test_an_index_that_fits_no_hparams_is_refused(
    mirror: Gpt2, hostile: Hostile, bring: Fetch
) -> None:
    hparams = json.dumps({**asdict(TINY), "n_embd": 16})
    hostile.files[f"/124M/{HPARAMS}"] = hparams.encode()
    assert "hparams.json asks for" in bring(mirror)["reason"]
    assert DATA not in asked(hostile)


def test_a_small_checkpoint_that_is_damaged_is_fetched_again_whole(
    mirror: Gpt2, hostile: Hostile, tiny: Path, bring: Fetch
) -> None:
    hostile.files[f"/124M/{INDEX}"] = altered(hostile.files[f"/124M/{INDEX}"], 100)
    hostile.always = Fault(headers={"Content-MD5": None})
    assert (
        bring(mirror)["reason"] == f"{hostile.address}/124M/{INDEX} cannot be read: it is damaged"
    )
    serve(hostile, tiny)
    assert bring(mirror)["status"] == "available"


@pytest.mark.parametrize("page", [b"<html>log in</html>", b'{"n_vocab": 1}', b""])
def test_hparams_that_are_none_end_it(
    page: bytes, mirror: Gpt2, hostile: Hostile, bring: Fetch
) -> None:
    hostile.files[f"/124M/{HPARAMS}"] = page
    reason = bring(mirror)["reason"]
    assert reason.startswith(f"{hostile.address}/124M/{HPARAMS}")
    assert asked(hostile) == [HPARAMS]


@pytest.mark.usefixtures("quick_verify")
def test_a_change_of_what_was_fetched_is_noticed(
    mirror: Gpt2, hostile: Hostile, bring: Fetch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = bring(mirror)
    asked(hostile)
    data = locate("124M", mirror).folder / DATA
    os.utime(data, (1, 1))
    assert bring(mirror) == report
    assert asked(hostile) == []
    content = data.read_bytes()
    data.write_bytes(altered(content))
    load_gpt2("124M", mirror)
    assert bring(mirror) == report
    assert asked(hostile) == [DATA]
    assert data.read_bytes() == content
    assert f"{DATA} is not what was fetched; fetching it again" in capsys.readouterr().err


def test_a_kill_before_the_reading_needs_no_network(
    mirror: Gpt2, hostile: Hostile, patience: Patience, bring: Fetch
) -> None:
    def killed(layout: object, folder: Path, data: bool) -> None:
        if data:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch("124M", mirror, patience=patience, verify=killed)
    hostile.always = Fault(status=500)
    asked(hostile)
    assert bring(mirror)["status"] == "available"
    assert asked(hostile) == []


def test_two_processes_fetch_it_once(mirror: Gpt2, hostile: Hostile) -> None:
    hostile.faults = [Fault(cut=10)]  # one of them is at it for a second
    script = (
        "import sys; from pipeline.gpt2.fetch import fetch; from pipeline.params import Gpt2;"
        "r = fetch('124M', Gpt2(mirror=sys.argv[1]), verify=lambda *a: None); print(r.status)"
    )
    children = [
        subprocess.Popen(
            [sys.executable, "-c", script, hostile.address],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    outputs = [child.communicate()[0] for child in children]
    assert outputs == ["available\n"] * 2
    assert asked(hostile) == [HPARAMS, *FILES]


@pytest.fixture
def openai(hostile: Hostile, monkeypatch: pytest.MonkeyPatch) -> Gpt2:
    """OpenAI's address and the fallback, both here; OpenAI's 124M is tiny."""
    monkeypatch.setattr(release, "OPENAI", f"{hostile.address}/openai")
    monkeypatch.setattr(release, "FALLBACK", f"{hostile.address}/fallback")
    monkeypatch.setitem(SIZES, "124M", replace(SIZES["124M"], hparams=TINY, sha256={}))
    return Gpt2()


@pytest.fixture
def other(write: Write) -> Path:
    """Whole and of the right size, as OpenAI's is, but other weights."""
    return write(name="other", seed=1)


def test_another_s_weights_are_not_taken_for_those_that_are_known(
    openai: Gpt2,
    hostile: Hostile,
    tiny: Path,
    other: Path,
    bring: Fetch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known, found = sha256_of(tiny / DATA), sha256_of(other / DATA)
    monkeypatch.setitem(SIZES, "124M", replace(SIZES["124M"], sha256={"openai": known}))
    serve(hostile, other, "/fallback/124M")
    assert bring(openai)["reason"].endswith(
        f"{DATA} from 127.0.0.1 is not the file that is known: its SHA-256 is {found}, "
        f"not {known}; `gpt2.sha256: {{124M: {found}}}` accepts it"
    )
    with pytest.raises(UserError, match="is not the file that is known"):
        load_gpt2("124M", openai)
    accepting = openai.model_copy(update={"sha256": {"124M": found}})
    report = bring(accepting)
    assert (report["status"], report["host"]) == ("available", "127.0.0.1")
    assert bring(openai)["status"] == "unavailable"
    serve(hostile, tiny, "/openai/124M")
    locate("124M", openai).record.unlink()
    assert bring(openai)["files"][DATA]["sha256"] == known


def test_a_later_fetch_must_bring_what_the_first_one_brought(
    openai: Gpt2, hostile: Hostile, tiny: Path, other: Path, bring: Fetch
) -> None:
    """From another host, say: the fallback is not OpenAI."""
    serve(hostile, tiny, "/openai/124M")
    first = bring(openai)
    hostile.files.clear()
    serve(hostile, other, "/fallback/124M")
    (locate("124M", openai).folder / DATA).unlink()
    assert "is not the file that is known" in bring(openai)["reason"]
    found = sha256_of(other / DATA)
    accepting = openai.model_copy(update={"sha256": {"124M": found}})
    assert bring(accepting)["files"][DATA]["sha256"] == found
    assert bring(openai)["files"][DATA]["sha256"] == found  # what was accepted stays so
    assert found != first["files"][DATA]["sha256"]


def test_weights_that_params_do_not_name_are_an_error_and_stay(
    mirror: Gpt2, hostile: Hostile, write: Write, bring: Fetch
) -> None:
    found = bring(mirror)["files"][DATA]["sha256"]
    asked(hostile)
    naming = mirror.model_copy(update={"sha256": {"124M": "0" * 64, "355M": found}})
    with pytest.raises(UserError, match=f"gpt2.sha256: 124M is to be 0*, but {DATA} from") as error:
        bring(naming)
    assert not isinstance(error.value, Unavailable)
    assert bring(mirror)["status"] == "available"
    assert asked(hostile) == []
    local = Gpt2(source=str(write(name="weights/124M").parent), sha256={"124M": "0" * 64})
    with pytest.raises(UserError, match=f"gpt2.sha256: 124M is to be 0*, but {DATA} from the fold"):
        bring(local)


def test_the_fallback_is_asked_when_openai_has_it_not(
    openai: Gpt2, hostile: Hostile, tiny: Path, bring: Fetch
) -> None:
    serve(hostile, tiny, "/fallback/124M")
    report = bring(openai)
    assert (report["status"], report["source"]) == ("available", "openai")
    assert report["host"] == "127.0.0.1"
    serve(hostile, tiny, "/openai/124M")
    assert bring(openai) == report


@pytest.mark.usefixtures("large")
def test_the_fallback_is_asked_when_openai_s_data_is_wrong(
    openai: Gpt2, hostile: Hostile, tiny: Path, bring: Fetch
) -> None:
    serve(hostile, tiny, "/openai/124M")
    serve(hostile, tiny, "/fallback/124M")
    hostile.files[f"/openai/124M/{DATA}"] = altered(hostile.files[f"/openai/124M/{DATA}"])
    assert bring(openai)["status"] == "available"
    assert [r.path for r in hostile.requests][-2:] == [
        f"/openai/124M/{DATA}",
        f"/fallback/124M/{DATA}",
    ]


def test_both_faults_are_told(openai: Gpt2, hostile: Hostile, bring: Fetch) -> None:
    assert bring(openai)["reason"] == (
        f"{hostile.address}/openai/124M/{HPARAMS} answers 404 Not Found; "
        f"{hostile.address}/fallback/124M/{HPARAMS} answers 404 Not Found"
    )


def test_openai_s_hparams_must_be_the_size_s_own(
    openai: Gpt2, hostile: Hostile, tiny: Path, bring: Fetch
) -> None:
    serve(hostile, tiny, "/openai/355M")
    reason = bring(openai, "355M")["reason"]
    assert f"/openai/355M/{HPARAMS}: n_ctx is 64, but GPT-2 355M has 1024" in reason
    assert len(hostile.requests) == 2


def test_a_mirror_s_weights_are_never_taken_for_openai_s(
    mirror: Gpt2, openai: Gpt2, bring: Fetch
) -> None:
    bring(mirror)
    with pytest.raises(UserError, match=r"GPT-2 124M cannot be had: .*/openai/124M"):
        load_gpt2("124M", openai)
    with pytest.raises(UserError, match=r"GPT-2 124M cannot be had"):
        load_gpt2("124M", Gpt2(mirror="http://127.0.0.1:1"))


def test_what_was_not_fetched_yet_is_fetched_by_who_reads_it(
    mirror: Gpt2, hostile: Hostile, quick_verify: None
) -> None:
    """Nobody need run `fetch_gpt2` first, or name the size in `gpt2.sizes`."""
    assert load_gpt2("124M", mirror).count_parameters() == TINY.parameters
    assert asked(hostile) == list(FILES)
    find("gpt2-124M").load(mirror)
    assert asked(hostile) == []


def test_what_is_there_can_be_read_where_nothing_can_be_written(
    mirror: Gpt2, bring: Fetch, cache: Path, hostile: Hostile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache that another user fills; its times may differ after a copy."""
    report = bring(mirror)
    asked(hostile)
    folder = locate("124M", mirror).folder
    os.utime(folder / DATA, (1, 1))

    def read_only(record: object, path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pipeline.gpt2.location._RecordFile.write", read_only)
    monkeypatch.setattr("pipeline.gpt2.fetch.FileLock", None)
    assert bring(mirror) == report
    assert asked(hostile) == []


def test_files_of_the_cache_are_others_to_read(mirror: Gpt2, bring: Fetch, cache: Path) -> None:
    before = os.umask(0o002)
    try:
        bring(mirror)
    finally:
        os.umask(before)
    for path in cache.rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o775 if path.is_dir() else 0o664), path


@pytest.mark.parametrize("inside", [True, False])
def test_a_local_folder_is_read_where_it_is(
    inside: bool, write: Write, monkeypatch: pytest.MonkeyPatch, bring: Fetch
) -> None:
    folder = write(name="weights/124M" if inside else "weights")
    if inside:
        settings = Gpt2(source=str(folder.parent))
    else:
        settings = Gpt2(source=str(folder))
        assert bring(settings)["reason"] == ("hparams.json: n_ctx is 64, but GPT-2 124M has 1024")
        monkeypatch.setitem(SIZES, "124M", replace(SIZES["124M"], hparams=TINY))
    report = bring(settings)
    assert (report["status"], report["source"]) == ("available", "local")
    assert load_gpt2("124M", settings).config.n_embd == TINY.n_embd
    assert sorted(p.name for p in locate("124M", settings).folder.iterdir()) == sorted(FILES)


def test_a_local_folder_that_changes_is_told(write: Write, bring: Fetch) -> None:
    folder = write(name="weights/124M")
    settings = Gpt2(source=str(folder.parent))
    before = bring(settings)["files"]
    write(name="weights/124M", seed=1)
    after = bring(settings)["files"]
    assert before[HPARAMS] == after[HPARAMS]
    assert before[DATA] != after[DATA]
    os.truncate(folder / DATA, 5)
    assert "has 5 bytes" in bring(settings)["reason"]
    assert (folder / DATA).exists()


def test_a_local_folder_without_the_size_is_unavailable(tmp_path: Path, bring: Fetch) -> None:
    report = bring(Gpt2(source=str(tmp_path)))
    assert report["status"] == "unavailable"
    assert report["reason"].startswith(
        "gpt2.source is neither openai nor huggingface, nor a folder"
    )


def test_a_local_folder_is_found_from_a_workspace(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bring: Fetch
) -> None:
    write(name="weights/124M")
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    monkeypatch.chdir(workspace)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert bring(Gpt2(source="weights"))["status"] == "available"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Gpt2(source="openia"), "gpt2.source: 'openia' is neither openai nor huggingface"),
        (
            Gpt2(source="hugging face", required=True),
            "neither openai nor huggingface, nor a folder",
        ),
        (Gpt2(source="/nowhere/at/all"), "nor a folder that is there"),
        (Gpt2(source=__file__), "nor a folder that is there"),
        (Gpt2(source="~nosuchuser/x"), "gpt2.source: '~nosuchuser/x' is not a path"),
        (Gpt2(source="x" * 5000), "gpt2.source: 'xx.*': File name too long"),
        (Gpt2(mirror="ftp://somewhere"), "must start with http"),
        (Gpt2(mirror="ftp://me:secret@somewhere"), "'ftp://somewhere' must start with http"),
        (Gpt2(mirror="http://"), "is no URL such as"),
        (Gpt2(mirror="http://[::1"), "is no URL such as"),
        (Gpt2(mirror="http://host:port/x"), "is no URL such as"),
        (Gpt2(mirror="http://host:99999/x"), "is no URL such as"),
        (Gpt2(mirror="http://a..b/x"), "is no URL such as"),
        (Gpt2(mirror="http://" + "x" * 64 + ".org"), "is no URL such as"),
        (Gpt2(mirror="http://two words/x"), "is no URL such as"),
        (Gpt2(mirror="http://x", source="huggingface"), "it must be null"),
    ],
)
def test_settings_that_cannot_be_right(settings: Gpt2, message: str, bring: Fetch) -> None:
    """They are errors whether or not a size is required: no other day would mend them."""
    with pytest.raises(UserError, match=message) as caught:
        bring(settings)
    assert not isinstance(caught.value, Unavailable)
    assert len(str(caught.value)) < 300
    assert "secret" not in str(caught.value)


def test_a_cache_of_no_user(mirror: Gpt2, bring: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOSSBOOK_CACHE", "~nosuchuser/cache")
    with pytest.raises(UserError, match="LOSSBOOK_CACHE: '~nosuchuser/cache' is not a path"):
        bring(mirror)


def test_an_unknown_size_is_an_error(bring: Fetch) -> None:
    with pytest.raises(UserError, match="GPT-2 has no size 125M; its sizes are 124M, 355M"):
        bring(Gpt2(), "125M")
    with pytest.raises(UserError, match="GPT-2 has no size 125M"):
        load_gpt2("125M")


def test_a_cache_that_cannot_be_written_is_unavailable(
    mirror: Gpt2, bring: Fetch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LOSSBOOK_CACHE", str(tmp_path / "file"))
    assert bring(mirror)["reason"] == "Lossbook's cache cannot be written: Not a directory"


def test_fetching_needs_neither_torch_nor_tensorflow() -> None:
    script = (
        "import sys, stages.fetch_gpt2, pipeline.gpt2.fetch, pipeline.gpt2.download;"
        "sys.exit(bool({'torch', 'tensorflow', 'numpy', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
