"""Files of one's own: complete or absent, JSON lines that survive a kill, hashes."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from lfl_jax.core import files
from lfl_jax.errors import UserError


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"x": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(path, {"x": float("nan")})

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=f"cannot write {path}: No space left on device; make room"):
        files.write_json(path, {"x": 2})
    assert json.loads(path.read_text()) == {"x": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_lines_survive_a_half_written_one(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    assert files.read_jsonl(path) == []
    files.append_jsonl(path, [{"i": 0, "text": "line\u2028one\n\r two"}])
    files.append_jsonl(path, [{"i": 1}])
    with path.open("a") as file:
        file.write('{"i": 2, "te')
    assert [record["i"] for record in files.read_jsonl(path)] == [0, 1]
    files.append_jsonl(path, [{"i": 3}])
    assert [record["i"] for record in files.read_jsonl(path)] == [0, 1, 3]
    assert files.read_jsonl(path)[0]["text"] == "line\u2028one\n\r two"


def test_only_a_half_line_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"i"')
    assert files.read_jsonl(path) == []
    files.append_jsonl(path, [{"i": 0}])
    assert path.read_text() == '{"i": 0}\n'


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"i": 0}\n{"i"\n{"i": 2}\n')
    with pytest.raises(UserError, match=r"a\.jsonl:2 is not JSON"):
        files.read_jsonl(path)


def test_records_are_added_together_as_json_dumps_writes_them(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    records = [{"text": "naïve"}, {"logprob": float("-inf")}]
    files.append_jsonl(path, records, ensure_ascii=False, allow_nan=True)
    assert path.read_text("utf-8") == '{"text": "naïve"}\n{"logprob": -Infinity}\n'
    assert files.read_jsonl(path) == records
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.append_jsonl(path, [{"x": 1}, *records])
    assert len(files.read_jsonl(path)) == 2


def test_what_fails_while_it_is_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), files.replacing(tmp_path / "new" / "a.bin") as partial:
        partial.write_bytes(b"half")
        raise KeyboardInterrupt
    assert list(tmp_path.rglob("*")) == [tmp_path / "new"]

    folder = tmp_path / "exported"
    with pytest.raises(OSError, match="gone"), files.removed_on_error(folder):
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        raise OSError("gone")
    assert not folder.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "no such file; it is a folder"), ("{", "malformed JSON"), ("[]", "expected a JSON")],
)
def test_a_file_without_a_json_object_is_named(
    tmp_path: Path, text: str | None, message: str
) -> None:
    path = tmp_path / "config.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=f"{path}: {message}"):
        files.read_json_object(path, "it is a folder")


def test_hashes_of_files(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.write_text(path.name)
    a, b = (hashlib.sha256(name.encode()).hexdigest() for name in "ab")
    assert files.sha256(paths[0]) == files.sha256_of_files(paths[:1]) == a
    assert files.sha256_of_files(paths) == hashlib.sha256(f"{a}{b}".encode()).hexdigest()
