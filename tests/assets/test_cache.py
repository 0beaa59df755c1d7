"""The cache: an item is there whole and current, or it is not there."""

import contextlib
import fcntl
import json

import pytest
from toy_manifest import TEXT, install, pretend

from lfl_jax import assets
from lfl_jax.assets import cache
from lfl_jax.core import files
from lfl_jax.errors import UserError


@pytest.fixture
def toy(tmp_path, monkeypatch):
    monkeypatch.setenv("LFL_CACHE", str(tmp_path / "cache"))
    return pretend(monkeypatch.setattr)


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("LFL_CACHE", str(tmp_path))
    assert assets.root() == tmp_path
    monkeypatch.setenv("LFL_CACHE", "")
    monkeypatch.setenv("HOME", "/home/someone")
    assert str(assets.root()) == "/home/someone/.cache/lfl_jax"


def test_a_missing_item_is_answered_with_the_command_to_run(toy):
    assert not assets.is_cached("toy")
    with pytest.raises(UserError, match=r"^toy is not fetched: run `python -m lfl_jax.fetch toy`$"):
        assets.path("toy")


def test_an_installed_item_is_found_with_its_provenance(toy):
    place = install(toy)
    assert assets.is_cached("toy")
    assert assets.path("toy") == place
    assert assets.path("toy", "deep/b.txt").read_text() == "second"
    found = assets.provenance("toy")
    assert found["licence"] == assets.licence("toy") == "MIT"
    assert found["origin"] == {"from": "wheel", "package": "pkg", "version": "1.0", "sha256": "00"}
    described = {"sha256": files.sha256(place / "a.txt"), "bytes": 5}
    assert described.items() <= found["files"]["a.txt"].items()
    assert [entry.name for entry in assets.root().iterdir() if entry.name != ".lock"] == ["toy"]


def test_a_file_the_item_lacks_is_named_with_those_it_has(toy):
    install(toy)
    with pytest.raises(UserError, match=r"toy has no file 'c.txt'; it has a.txt, deep/b.txt"):
        assets.path("toy", "c.txt")


@pytest.mark.parametrize("damage", ["truncate", "remove", "no stamp", "broken stamp"])
def test_a_damaged_item_counts_as_absent_and_can_be_installed_again(toy, damage):
    place = install(toy)
    if damage == "truncate":
        (place / "a.txt").write_text("fir")
    elif damage == "remove":
        (place / "deep" / "b.txt").unlink()
    elif damage == "no stamp":
        (place / cache.STAMP).unlink()
    else:
        (place / cache.STAMP).write_text('{"name": "to')
    assert not assets.is_cached("toy")
    install(toy)
    assert assets.is_cached("toy")
    assert assets.path("toy", "a.txt").read_text() == "first"


@pytest.mark.parametrize(
    ("old", "new"), [('sha256 = "00"', 'sha256 = "01"'), ('"a.txt"', '"c.txt"')]
)
def test_an_item_of_an_older_manifest_counts_as_absent(toy, monkeypatch, old, new):
    install(toy)
    pretend(monkeypatch.setattr, TEXT.replace(old, new))
    assert not assets.is_cached("toy")


def test_a_better_known_size_changes_nothing(toy, monkeypatch):
    install(toy)
    pretend(monkeypatch.setattr, TEXT.replace("bytes = 3", "bytes = 4"))
    assert assets.is_cached("toy")


def test_a_failure_while_staging_leaves_nothing(toy):
    with pytest.raises(ZeroDivisionError), cache.exclusive(), cache.staging() as folder:
        (folder / "half").write_text("x")
        raise ZeroDivisionError
    assert [entry.name for entry in assets.root().iterdir()] == [".lock"]


def test_what_a_killed_fetch_left_is_cleared_by_the_next(toy):
    left = assets.root() / f"{cache.PARTIAL}xyz"
    left.mkdir(parents=True)
    (left / "half.whl").write_text("x")
    with cache.exclusive():
        assert not left.exists()


def test_one_fetch_at_a_time(toy):
    def try_lock():
        with open(assets.root() / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    with cache.exclusive(), pytest.raises(BlockingIOError):
        try_lock()
    try_lock()


def test_a_second_fetch_says_that_it_waits_and_then_goes_on(toy):
    first, said = contextlib.ExitStack(), []
    first.enter_context(cache.exclusive())

    def on_wait():
        said.append("waiting")
        first.close()

    with cache.exclusive(on_wait):
        assert said == ["waiting"]


def test_a_cache_that_cannot_be_written_is_said_once_and_done_without(
    tmp_path, monkeypatch, capsys
):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LFL_CACHE", str(tmp_path / "file" / "cache"))
    assert assets.writable("compiled") is None
    folder = assets.scratch("documents")
    assert folder.is_dir() and folder == assets.scratch("documents")
    said = (
        f"warning: cannot write to the cache {tmp_path}/file/cache (Not a directory): set LFL_CACHE"
    )
    assert capsys.readouterr().err.strip() == f"{said}; going on without it"


def test_without_a_home_directory_the_cache_must_be_named(monkeypatch, capsys):
    def fails(self):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("LFL_CACHE", raising=False)
    monkeypatch.setattr("pathlib.Path.expanduser", fails)
    with pytest.raises(
        UserError, match="no home directory for the cache ~/.cache/lfl_jax: set LFL_CACHE"
    ):
        assets.root()
    assert assets.writable("compiled") is None and "set LFL_CACHE" in capsys.readouterr().err


def test_a_cache_that_can_be_written_is_used(tmp_path, monkeypatch):
    monkeypatch.setenv("LFL_CACHE", str(tmp_path / "cache"))
    assert (
        assets.writable("compiled") == assets.scratch("compiled") == tmp_path / "cache" / "compiled"
    )
    assert not list((tmp_path / "cache" / "compiled").iterdir())


def test_a_file_that_changed_after_it_was_fetched_is_noticed(toy):
    place = install(toy)
    file, times = place / "a.txt", (place / "a.txt").stat()
    file.write_text("FIRST")
    assert not assets.is_cached("toy")
    with pytest.raises(UserError, match=r"^toy in the cache is not what was fetched: run `python"):
        assets.path("toy")
    # The same bytes at another time, as of a copied cache, are hashed once.
    file.write_text("first")
    assert file.stat().st_mtime_ns != times.st_mtime_ns and assets.is_cached("toy")
    assert assets.provenance("toy")["files"]["a.txt"]["mtime_ns"] == file.stat().st_mtime_ns


def test_a_stamp_of_an_earlier_version_gets_the_times(toy):
    place = install(toy)
    stamp = json.loads((place / cache.STAMP).read_text())
    for described in stamp["files"].values():
        del described["mtime_ns"]
    (place / cache.STAMP).write_text(json.dumps(stamp))
    assert assets.is_cached("toy")
    assert "mtime_ns" in json.loads((place / cache.STAMP).read_text())["files"]["a.txt"]
    # Not where the file is another one meanwhile.
    (place / cache.STAMP).write_text(json.dumps(stamp))
    (place / "a.txt").write_text("FIRST")
    assert not assets.is_cached("toy")


@pytest.mark.parametrize(
    "text", ['{"files": []}', '{"files": {"a.txt": {}}}', "[" * 100_000, "7", "null"]
)
def test_a_damaged_stamp_is_none(toy, text):
    place = install(toy)
    (place / cache.STAMP).write_text(text)
    assert not assets.is_cached("toy")
