"""The fetch command, with real pip downloads from a local folder of wheels and no network."""

import importlib
import os
import signal
import subprocess
import sys
import time
import zipfile

import pytest

from lfl_jax import assets, fetch
from lfl_jax.assets import cache, download, fetching
from lfl_jax.core import files
from lfl_jax.errors import UserError

manifest = importlib.import_module("lfl_jax.assets.manifest")

TEXT = """
[wheels.shelf-of-toys]
version = "1.0"
sha256 = "{sha256}"
bytes = {bytes}
[items.toy]
kind = "dataset"
licence = "MIT"
about = "a toy"
wheel = "shelf-of-toys"
files = {{ "toys/a.txt" = "a.txt" }}
[items.ball]
kind = "model"
licence = "Apache-2.0"
about = "a ball"
wheel = "shelf-of-toys"
files = {{ "toys/b.txt" = "deep/b.txt" }}
[groups]
all = ["toy", "ball"]
"""


def write_wheel(folder):
    file = folder / "shelf_of_toys-1.0-py3-none-any.whl"
    info = "shelf_of_toys-1.0.dist-info"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("toys/a.txt", "first")
        archive.writestr("toys/b.txt", "second")
        archive.writestr("toys/not_wanted.txt", "x" * 1000)
        # A requirement that does not exist, and a Python that is not this one: data is taken all
        # the same.
        needs = "Requires-Dist: no-such-package-anywhere\nRequires-Python: <3\n"
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: shelf-of-toys\nVersion: 1.0\n{needs}"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return file


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """A folder of wheels instead of an index, an empty cache, and a manifest for both; returns the
    wheel."""
    (tmp_path / "wheels").mkdir()
    wheel = write_wheel(tmp_path / "wheels")
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setenv("LFL_CACHE", str(tmp_path / "cache"))
    pretend(monkeypatch, sha256=files.sha256(wheel), bytes=wheel.stat().st_size)
    return wheel


def pretend(monkeypatch, **values):
    text = TEXT.format(**values)
    monkeypatch.setattr(manifest, "read", lambda: manifest.parse(text))


def run(*names):
    fetch.main(["fetch", *names])


def left_in_cache():
    return sorted(entry.name for entry in assets.root().iterdir())


def test_a_group_is_fetched_with_one_download_and_only_the_listed_files(shop, capsys, monkeypatch):
    downloads = []
    pip = download._pip_download
    monkeypatch.setattr(
        download, "_pip_download", lambda *call: downloads.append(call[0]) or pip(*call)
    )
    run("all")
    assert downloads == ["shelf-of-toys==1.0"]
    assert assets.path("toy", "a.txt").read_text() == "first"
    assert assets.path("ball", "deep/b.txt").read_text() == "second"
    assert left_in_cache() == [".lock", "ball", "toy"]
    assert sorted(assets.provenance("toy")["files"]) == ["a.txt"]
    said = capsys.readouterr().out
    assert "downloading shelf-of-toys==1.0" in said
    assert f"toy: fetched into {assets.root() / 'toy'} (MIT)" in said


def test_a_repeated_fetch_does_nothing_and_says_so(shop, capsys, monkeypatch):
    run("toy")
    before = (assets.root() / "toy" / cache.STAMP).stat().st_mtime_ns
    capsys.readouterr()
    monkeypatch.setattr(
        cache, "exclusive", lambda **call: pytest.fail("asked to write into the cache")
    )
    run("toy")
    assert capsys.readouterr().out == f"toy: already in {assets.root() / 'toy'}\n"
    assert (assets.root() / "toy" / cache.STAMP).stat().st_mtime_ns == before


def test_a_wrong_hash_unpacks_nothing(shop, monkeypatch):
    pretend(monkeypatch, sha256="f" * 64, bytes=1)
    with pytest.raises(
        UserError, match=r"the downloaded file has sha256 \w{64}, the manifest says f{64}"
    ) as caught:
        run("all")
    assert len(str(caught.value).splitlines()) <= 2
    assert left_in_cache() == [".lock"]


def test_an_index_without_the_package_is_one_clear_message(shop):
    shop.unlink()
    with pytest.raises(
        UserError, match=r"No matching distribution found for shelf-of-toys==1.0"
    ) as caught:
        run("toy")
    assert len(str(caught.value).splitlines()) <= 2
    assert left_in_cache() == [".lock"]


def test_offline_is_one_clear_message(shop, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nothing listens there
    monkeypatch.setattr(download, "RETRIES", 1)
    with pytest.raises(
        UserError, match=r"cannot download shelf-of-toys==1.0 with pip: .*cannot be reached"
    ) as caught:
        run("toy")
    assert len(str(caught.value).splitlines()) <= 2
    assert left_in_cache() == [".lock"]


def test_a_cache_that_cannot_be_written_is_named(shop, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LFL_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match=r"cannot write to .*file/cache .*set LFL_CACHE elsewhere"):
        run("toy")


def test_ctrl_c_says_what_it_leaves(shop, capsys, monkeypatch):
    def interrupt(*call):
        raise KeyboardInterrupt

    monkeypatch.setattr(download, "_running", interrupt)
    with pytest.raises(SystemExit) as caught:
        run("toy")
    assert caught.value.code == 130
    assert "nothing half-written is left" in capsys.readouterr().err
    assert left_in_cache() == [".lock"]


def test_a_killed_fetch_leaves_no_item_and_the_next_one_cleans_up(shop, tmp_path):
    """kill -9 while the wheel is on its way: a named pipe in the place of pip never delivers it."""
    script = f"""
import importlib, subprocess, sys
from lfl_jax import fetch
from lfl_jax.assets import download
manifest = importlib.import_module("lfl_jax.assets.manifest")
text = {TEXT.format(sha256="0" * 64, bytes=1)!r}
manifest.read = lambda: manifest.parse(text)
download.sys = type("Slow", (), {{"executable": {str(tmp_path / "slow")!r}}})
fetch.main(["fetch", "toy"])
"""
    (tmp_path / "slow").write_text("#!/bin/sh\nexec sleep 20\n")
    (tmp_path / "slow").chmod(0o755)
    process = subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
    deadline = time.monotonic() + 30
    while not list(assets.root().glob(f"{cache.PARTIAL}*/pip.log")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert [name for name in left_in_cache() if name.startswith(cache.PARTIAL)]
    assert not assets.is_cached("toy")
    run("toy")
    assert left_in_cache() == [".lock", "toy"]


def test_the_bytes_are_reported_as_they_arrive(shop, monkeypatch, tmp_path):
    """A stand-in for pip writes two pieces, the second after the first was reported."""
    size = shop.stat().st_size
    slow = tmp_path / "slow"
    slow.write_text(
        f"#!{sys.executable}\n"
        "import os, pathlib, sys, time\n"
        f"data = pathlib.Path({str(shop)!r}).read_bytes()\n"
        "target = pathlib.Path(sys.argv[sys.argv.index('--dest') + 1])\n"
        "target.mkdir()\n"
        "part = pathlib.Path(os.environ['TMPDIR'], 'part')\n"
        "part.write_bytes(data[:100])\n"
        "time.sleep(1)\n"
        f"(target / {shop.name!r}).write_bytes(data)\n"
    )
    slow.chmod(0o755)
    monkeypatch.setattr(download.sys, "executable", str(slow))
    seen = []
    (toy,) = assets.select(["toy"])
    with cache.exclusive():
        download.fetch_wheel(
            toy.origin, [toy], lambda label, done, total: seen.append((label, done, total))
        )
    assert ("shelf-of-toys==1.0", 100, size) in seen
    assert seen[-1] == ("shelf-of-toys==1.0", size, size)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)


def test_nothing_named_and_unknown_names_are_user_errors(shop):
    with pytest.raises(UserError, match=r"nothing to fetch was named"):
        run()
    with pytest.raises(UserError, match=r"did you mean 'ball'"):
        run("toy", "bal")
    assert not assets.root().exists()


def test_the_list_shows_every_item_and_what_is_here(shop, capsys):
    run("toy")
    capsys.readouterr()
    run("--list")
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines[1:])) <= 80 and "* toy" in lines and "  ball" in lines
    about = " ".join(line.strip() for line in lines[lines.index("* toy") : lines.index("  ball")])
    assert "MIT, PyPI shelf-of-toys 1.0" in about
    assert "  all = toy ball" in lines


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (52282, "52.3 kB"), (13476831232, "13.5 GB")]
)
def test_sizes_are_written_in_decimal_units(count, text):
    assert fetching.size(count) == text


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "lfl_jax.fetch", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_command_itself():
    wrong = command("smolm2")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: nothing called 'smolm2'")
    assert len(wrong.stderr.splitlines()) <= 2
    helped = command("--help")
    assert helped.returncode == 0
    assert "LFL_CACHE" in helped.stdout
    assert "smollm2-135m evals" in helped.stdout
