"""A report that is killed and written again; runs that contradict their list; logs without samples.

python -m pytest -m slow tests/studies/test_report_robust.py      killed at every file, 2 minutes
"""

import dataclasses
import json
import signal
import subprocess
import sys

import pytest
from planted_study import ITEMS, answer, write_study

from lfl_jax import compare
from lfl_jax.core import files
from lfl_jax.errors import UserError
from lfl_jax.studies import records, runs

# Ends the process, as kill -9 does, in the middle of the file that is written after `count` others.
KILLED = """
import os, signal, sys
from lfl_jax import compare
from lfl_jax.core import files
count, write = int(sys.argv.pop(1)), files.replacing

def dying(path):
    global count
    count -= 1
    if count < 0:
        partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        partial.write_text("half of it")
        os.kill(os.getpid(), signal.SIGKILL)
    return write(path)

files.replacing = dying
compare.main(sys.argv)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra study)")
    return write_study(tmp_path_factory.mktemp("study") / "s")


def words(folder, out):
    named = [str(folder / "base.csv"), f"--runs={folder / 'runs.csv'}", "--learning=target/score"]
    return [*named, "--forgetting=source/score", f"--report={out}"]


def content(folder):
    """{file: its bytes} of a report; its command has the folder's name."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    everything = {str(path.relative_to(folder)): path.read_bytes() for path in paths}
    everything["index.html"] = everything["index.html"].replace(str(folder).encode(), b"")
    return everything


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    compare.main(["", *words(folder, out)])
    return content(out)


def killed_and_written_again(folder, whole, out, count):
    command = [sys.executable, "-c", KILLED, str(count), *words(folder, out)]
    ended = subprocess.run(command, capture_output=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    # The page is written last: nobody sees half of a report.
    assert not (out / "index.html").exists() and list(out.rglob(".*.tmp"))
    compare.main(["", *words(folder, out)])
    assert content(out) == whole


def test_killed_between_its_files_a_report_is_the_same_again(folder, whole, tmp_path):
    killed_and_written_again(folder, whole, tmp_path, count=12)


@pytest.mark.slow
@pytest.mark.parametrize("at", range(5))
def test_wherever_it_is_killed(folder, whole, tmp_path, at):
    # All but the figures is written by `replacing`, the page as its last file.
    written = sum(name.startswith("tables/") for name in whole) + 1
    killed_and_written_again(folder, whole, tmp_path, count=round(at / 4 * (written - 1)))


def test_a_page_that_is_there_stays_until_the_next_is_whole(folder, whole, tmp_path, monkeypatch):
    for name, data in whole.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)

    def interrupted(path, text):
        if path.name == "index.html":
            raise KeyboardInterrupt
        files_write(path, text)

    files_write = files.write_text
    monkeypatch.setattr(files, "write_text", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compare.main(["", *words(folder, tmp_path)])
    assert content(tmp_path) == whole


def edit(folder, place, change):
    """A copy of the list of runs, beside the files that it names."""
    lines = (folder / "runs.csv").read_text().splitlines()
    listed = folder / place
    listed.write_text("\n".join(change(lines)) + "\n")
    return listed


def test_one_folder_under_two_seeds_is_refused(tmp_path):
    folder = write_study(tmp_path / "s")
    listed = edit(
        folder, "twice.csv", lambda lines: [*lines[:2], lines[2].replace("-1.csv", "-0.csv")]
    )
    with pytest.raises(UserError, match=r"lines 2 and 3 name one folder, full-0.0001-0.csv"):
        runs.read(listed)


def test_a_run_on_other_items_is_named(tmp_path):
    folder = write_study(tmp_path / "s")
    file = folder / "lora-0.001-2.csv"
    file.write_text(file.read_text().replace(",i7,", ",i700,"))
    message = (
        rf"source/score of lora-0.001-2 \({ITEMS} items\) and of base \({ITEMS}\)"
        " are not of the same items|target/score of lora-0.001-2"
    )
    with pytest.raises(UserError, match=message):
        answer(folder)


def run_directory(path, lr=1e-3, steps=160, items=4):
    for when in ("before", "after"):
        folder = path / "evals" / when
        folder.mkdir(parents=True)
        scored = [{"id": i, "cluster": i, "acc": 1.0, "gold_logprob": -1.0} for i in "abcd"]
        lines = [{"settings": {"items": items}, "plan": {}}, *scored]
        (folder / "lab_rule.jsonl").write_text("".join(f"{json.dumps(x)}\n" for x in lines))
    config = {"optim": {"lr": lr}, "train": {"steps": steps}}
    (path / "config.json").write_text(json.dumps({"hash": "0", "config": config}))
    return path


def listed_as(tmp_path, lr="0.001", step="160"):
    listed = tmp_path / "runs.csv"
    listed.write_text(f"method,lr,seed,step,folder\nlora,{lr},0,{step},run\n")
    return listed


def test_a_run_directory_is_the_run_that_it_is_called(tmp_path):
    run_directory(tmp_path / "run")
    (run,) = runs.read(listed_as(tmp_path))
    assert run.scores.name == "run:after"
    for changes in ({"lr": "0.01"}, {"step": "80"}):
        with pytest.raises(UserError, match=r"line 2: lr .* had lr 0.001 and 160 steps"):
            runs.read(listed_as(tmp_path, **changes))


def test_a_truncated_run_directory_is_refused(tmp_path):
    run_directory(tmp_path / "run", items=8)
    with pytest.raises(UserError, match="4 of 8 items; the evaluation was interrupted"):
        runs.read(listed_as(tmp_path))

    file = run_directory(tmp_path / "cut" / "run") / "evals/after/lab_rule.jsonl"
    # In the middle of a line, as a full disk leaves it.
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(UserError, match="3 of 4 items; the evaluation was interrupted"):
        runs.read(listed_as(tmp_path / "cut"))


def test_results_without_samples_are_refused(tmp_path):
    (tmp_path / "results_2026-11-30T10-00-00.json").write_text("{}")
    with pytest.raises(UserError, match="results without samples: run lm_eval with --log_samples"):
        records.read(str(tmp_path))


def test_changed_prompts_of_one_run_are_said_in_the_table(tmp_path):
    findings = answer(write_study(tmp_path / "s"))
    prompts = {"source": {f"i{i}": "hash" for i in range(ITEMS)}}
    other = {"source": prompts["source"] | {"i3": "other"}}
    base = dataclasses.replace(findings.base, prompts=prompts)
    run = findings.runs[0]
    changed = dataclasses.replace(run, scores=dataclasses.replace(run.scores, prompts=other))
    asked = dataclasses.replace(findings, base=base, runs=(changed, *findings.runs[1:]))
    reasons = [change.reason for change in asked.changes if change.reason]
    (reason,) = reasons
    assert "source: 1 of 120 prompts differ between base and full-0.0001-0" in reason
