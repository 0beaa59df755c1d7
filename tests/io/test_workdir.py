"""The run directory: one config each, fields that differ are named, nothing half-written."""

import json
import os
from pathlib import Path

import pytest

from lfl_jax.errors import UserError
from lfl_jax.io import workdir

CONFIG = {
    "optim": {"lr": 1e-3, "betas": [0.9, 0.95]},
    "seed": {"data": 0},
    "log": {"every": 10},
    "extra": {},
}
MAY_CHANGE = (r"log\..*", r"checkpoint\.keep")


def prepare(path: Path, config: dict, **kwargs: object) -> Path:
    return workdir.prepare(path, json.dumps(config), "hash", may_change=MAY_CHANGE, **kwargs)


def test_a_new_directory_gets_the_config(tmp_path: Path) -> None:
    path = prepare(tmp_path / "runs" / "one", CONFIG)
    assert path == tmp_path / "runs" / "one"
    assert json.loads((path / "config.json").read_text()) == {"hash": "hash", "config": CONFIG}
    assert prepare(path, CONFIG) == path
    assert os.listdir(path) == ["config.json"]


def test_another_config_is_refused_with_the_fields_that_differ(tmp_path: Path) -> None:
    prepare(tmp_path, CONFIG)
    optim = {"lr": 2e-3, "betas": [0.9, 0.99]}
    other = {**CONFIG, "optim": optim, "log": {"every": 5}, "adapter": {"rank": 8}}
    del other["extra"]
    with pytest.raises(UserError) as error:
        prepare(tmp_path, other)
    assert str(error.value).splitlines() == [
        f"workdir {tmp_path} belongs to another config: adapter.rank was not set, now 8; extra was"
        f" {{}}, "
        "now not set; optim.betas was [0.9, 0.95], now [0.9, 0.99]; optim.lr was 0.001, now 0.002",
        "pass another --workdir, or delete this one to start over",
    ]
    assert json.loads((tmp_path / "config.json").read_text())["config"] == CONFIG


def test_a_field_newer_than_the_directory_had_its_default(tmp_path: Path) -> None:
    prepare(tmp_path, CONFIG)
    newer = {**CONFIG, "adapter": {"init": "b_zero"}}
    prepare(tmp_path, newer, defaults_json=json.dumps({"adapter": {"init": "b_zero"}, "extra": 1}))
    assert json.loads((tmp_path / "config.json").read_text())["config"] == newer
    prepare(tmp_path / "other", CONFIG)
    with pytest.raises(UserError, match='adapter.init was "a_zero", now "b_zero"'):
        prepare(tmp_path / "other", newer, defaults_json='{"adapter": {"init": "a_zero"}}')


def test_at_most_five_fields_are_named(tmp_path: Path) -> None:
    prepare(tmp_path, {"model": {str(i): 0 for i in range(7)}})
    with pytest.raises(UserError, match=r"model\.4 was 0, now 1; and 2 more") as error:
        prepare(tmp_path, {"model": {str(i): 1 for i in range(7)}})
    assert "model.5" not in str(error.value)


def test_fields_that_may_change_do(tmp_path: Path) -> None:
    prepare(tmp_path, CONFIG)
    other = {**CONFIG, "log": {"every": 5}, "checkpoint": {"keep": 2}}
    prepare(tmp_path, other)
    assert json.loads((tmp_path / "config.json").read_text())["config"] == other


def test_may_change_is_a_full_match(tmp_path: Path) -> None:
    prepare(tmp_path, {"checkpoint": {"keep_every": 1}})
    with pytest.raises(UserError, match="keep_every was 1, now 2"):
        prepare(tmp_path, {"checkpoint": {"keep_every": 2}})


def test_other_processes_check_and_do_not_write(tmp_path: Path) -> None:
    prepare(tmp_path / "new", CONFIG, process_index=1)
    assert not (tmp_path / "new").exists()
    prepare(tmp_path, CONFIG)
    with pytest.raises(UserError, match="another config"):
        prepare(tmp_path, {"seed": 1}, process_index=1)


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"seed": 0}', '{"hash": "x", "config": 3}'])
def test_a_foreign_config_file_is_refused_and_kept(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match="was not written by a run"):
        prepare(tmp_path, CONFIG)
    assert (tmp_path / "config.json").read_text() == text


@pytest.mark.parametrize("below", ["", "run"])
def test_a_file_in_the_way_is_named(tmp_path: Path, below: str) -> None:
    path = tmp_path / "file"
    path.write_text("mine")
    with pytest.raises(
        UserError, match=f"cannot write to workdir {path / below}: .*another --workdir"
    ):
        prepare(path / below, CONFIG)
    assert path.read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_without_permission_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot write to workdir .*: Permission denied"):
        prepare(tmp_path, CONFIG)


@pytest.mark.skipif(
    not Path("/proc/self").exists(), reason="Linux has /proc, where nobody makes files"
)
def test_a_place_that_takes_no_files_is_named() -> None:
    with pytest.raises(UserError, match="cannot write to workdir /proc/lfl: "):
        prepare(Path("/proc/lfl"), CONFIG)
    with pytest.raises(UserError, match="cannot write to workdir /proc: "):
        prepare(Path("/proc"), CONFIG)


def test_a_full_disk_leaves_the_config_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(tmp_path, CONFIG)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        prepare(tmp_path, {**CONFIG, "log": {"every": 5}})
    assert json.loads((tmp_path / "config.json").read_text())["config"] == CONFIG
    assert os.listdir(tmp_path) == ["config.json"]


def test_flatten_keeps_lists_and_empty_sections() -> None:
    nested = {"a": {"b": [1, {"c": 2}], "d": {}}, "e": None}
    assert workdir.flatten(nested) == {"a.b": [1, {"c": 2}], "a.d": {}, "e": None}
