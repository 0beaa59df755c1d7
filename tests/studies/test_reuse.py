"""A run that another study finished is taken from there, unless anything of it is not the same."""

import dataclasses
import json
import os
import shutil

import pytest
from lfl_jax.configs.studies import smoke
from pretended_runs import Fake, finish

from lfl_jax.core import files
from lfl_jax.core.sharding import make_rules
from lfl_jax.data.sources import open_source
from lfl_jax.errors import UserError
from lfl_jax.run_setup import base_model
from lfl_jax.studies import grid, outcome
from lfl_jax.studies.running import execute, finished, reuse
from lfl_jax.studies.running.execute import State, Study


@pytest.fixture(scope="module")
def planned():
    return grid.expand(grid.read(smoke.get_config().to_dict()))


@pytest.fixture(scope="module")
def provenance(planned):
    config = planned[0].config
    fingerprint = base_model.load(config, make_rules()).origin.fingerprint
    return {
        seed: {
            "data": {"sha256": open_source(config.data, "train", seed).sha256},
            "base": {"fingerprint": fingerprint},
        }
        for seed in {run.config.seed.data for run in planned}
    }


@pytest.fixture
def earlier(tmp_path, planned, provenance):
    """A study whose runs are finished, with a checkpoint each."""
    study = Study(tmp_path / "earlier", planned)
    for run in planned:
        folder = study.run_folder(run)
        finish(run.config, folder)
        facts = {"facts": {"provenance": provenance[run.config.seed.data]}}
        files.write_json(folder / "results.json", facts)
        files.write_text(folder / "checkpoints/4/params", "weights")
    return study


def run_names(folder, runs):
    """What a study of these runs in this folder has to do itself."""
    fake = Fake()
    study = Study(folder, runs)
    assert execute.execute(study, fake, quiet=True)
    assert set(study.states().values()) == {State.FINISHED}
    return fake.done


def test_equal_runs_are_not_run_again(earlier, tmp_path, planned, capsys):
    # Of another name: a run is its config.
    renamed = [dataclasses.replace(run, name=f"other-{run.name}", arm="other") for run in planned]
    renamed[0] = dataclasses.replace(
        renamed[0], config=dataclasses.replace(renamed[0].config, log=renamed[1].config.log)
    )
    study, fake = Study(tmp_path / "later", renamed), Fake()
    assert execute.execute(study, fake) and fake.done == []
    assert f"{renamed[0].name} reused: {tmp_path}/earlier/runs/" in capsys.readouterr().err
    # What it says outlives the other study.
    mine, other = study.run_folder(renamed[0]), earlier.run_folder(planned[0])
    assert reuse.origin(mine) == str(other) and reuse.origin(other) == ""
    checkpoints = [folder / "checkpoints/4/params" for folder in (mine, other)]
    assert os.path.samefile(*checkpoints)
    assert not os.path.samefile(mine / "results.json", other / "results.json")
    (sentence,) = outcome._reused(study)
    assert f"8 of {tmp_path}/earlier" in sentence
    # It took no time, from which nothing follows for others.
    assert execute.remaining_seconds(study, renamed) is None


def changed(run, section, **fields):
    part = dataclasses.replace(getattr(run.config, section), **fields)
    return dataclasses.replace(run, config=dataclasses.replace(run.config, **{section: part}))


def test_whatever_differs_is_run(earlier, tmp_path, planned):
    first, *_ = planned
    for number, other in enumerate(
        (
            changed(first, "eval", rows=3),
            changed(first, "optim", weight_decay=0.5),
            # Files of another place may be other files, though the hash does not say so.
            changed(first, "model", path="/elsewhere"),
        )
    ):
        assert run_names(tmp_path / str(number), [other]) == [first.name]
    assert run_names(tmp_path / "same", [first]) == []


def test_a_run_without_the_weights_that_a_study_keeps_is_run(earlier, tmp_path, planned):
    first = planned[0]
    shutil.rmtree(earlier.run_folder(first) / "checkpoints")
    known = reuse.Known.of(tmp_path)
    for kept, is_usable in (("none", True), ("weights", False), ("all", False)):
        study = Study(tmp_path / "later", planned, retention=kept)
        assert bool(known.find(first.config, study.is_usable)) is is_usable
    # Moments are wanted by who keeps everything.
    study = Study(tmp_path / "later", planned, retention="all")
    assert known.find(planned[1].config, study.is_usable) is None


def test_what_it_was_run_with_may_have_changed(earlier, tmp_path, planned):
    first, second, third = planned[:3]
    results = [earlier.run_folder(run) / "results.json" for run in (first, second, third)]
    for file, part, field in zip(
        results, ("data", "base"), ("sha256", "fingerprint"), strict=False
    ):
        record = files.read_json_object(file)
        record["facts"]["provenance"][part][field] = "another"
        files.write_json(file, record)
    results[2].unlink()
    left = [first.name, second.name, third.name]
    assert run_names(tmp_path / "later", [first, second, third]) == left
    # A file that an evaluation reads, newer than the run.
    file = tmp_path / "text.txt"
    file.write_text("text")
    reads = changed(planned[3], "eval", source_text=str(file))
    folder = earlier.run_folder(planned[3])
    finish(reads.config, folder)
    assert run_names(tmp_path / "newer", [reads]) == [reads.name]


def test_a_run_that_began_is_resumed(earlier, tmp_path, planned):
    study = Study(tmp_path / "later", planned)
    study.run_folder(planned[0]).mkdir(parents=True)
    fake = Fake()
    execute.execute(study, fake, quiet=True)
    assert fake.done == [planned[0].name]


def test_an_older_record_without_a_newer_field_is_the_same_run(tmp_path, planned):
    study = Study(tmp_path, planned[:1])
    execute.execute(study, Fake(), quiet=True)
    file = study.run_folder(planned[0]) / "config.json"
    record = files.read_json_object(file)
    del record["config"]["eval"]["decontaminate"]
    files.write_json(file, record)
    # Its default is what the study wants.
    assert planned[0].config.eval.decontaminate is True
    assert finished.is_finished(study.run_folder(planned[0]), planned[0].config)


def test_half_a_copy_of_a_process_that_was_killed_is_removed(tmp_path):
    source, half = tmp_path / "lora-1", tmp_path / "runs" / ".lora-1.77.partial"
    other = tmp_path / "runs" / ".lora-11.77.partial"
    for folder in (source, half, other):
        folder.mkdir(parents=True)
    reuse.copy(source, tmp_path / "runs" / "lora-1")
    assert not half.exists() and other.exists()


@pytest.mark.parametrize("text", ['{"from": "' + "x" * 300 + '"}', '{"from": 7}', "{}", "[]"])
def test_a_damaged_record_of_where_a_run_was_copied_from(tmp_path, text):
    (tmp_path / reuse.ORIGIN).write_text(text)
    with pytest.raises(UserError, match="reused.json"):
        reuse.origins(tmp_path)


def test_copies_in_a_circle_end(tmp_path):
    (tmp_path / reuse.ORIGIN).write_text(json.dumps({"from": str(tmp_path)}))
    assert reuse.origins(tmp_path) == []
