"""Two processes of four devices, through `python -m lfl_jax.main --distributed`, against one
process of eight."""

import itertools
import json
import re
import signal
import socket
import time

import pytest
from multi_device.processes import Start, finished

STEPS = 6
SIZES = {
    "data.seq_len": 256,
    "train.batch": 8,
    "data.streams": 2,  # one for each process
    "mesh.data": 8,
    "mesh.fsdp": 1,
    "train.steps": STEPS,
    "checkpoint.every": 2,
    "adapter.dropout": 0.1,  # its key is in checkpoints, too
    "eval.rows": 8,
    "eval.seq_len": 512,
    "eval.generate_rows": 4,
    "log.tensorboard": False,
}
TASKS = ("target_nll:6", "source_nll:6", "winogrande:5", "source_test:4")
CODING = {
    "mesh.data": 1,
    "mesh.fsdp": 8,
    "eval.tasks": "('target_nll:4','humaneval:2')",
    "eval.samples": 2,
    "eval.temperature": 0.8,
    "eval.allow_weak_sandbox": True,
}
NAMES = ("Ann", "Bob", "Cleo", "Dan", "Eve")
CHOICES = [
    {
        "sentence": f"{a} lent {b} a book because _ asked for it.",
        "option1": a,
        "option2": b,
        "answer": "2",
    }
    for a, b in zip(NAMES, NAMES[1:] + NAMES[:1], strict=True)
]
PROGRAMS = [
    {
        "task_id": f"Test/{i}",
        "prompt": f'def f{i}(x):\n    """Add {i} to x."""\n',
        "entry_point": f"f{i}",
        "canonical_solution": f"    return x + {i}\n",
        "test": f"def check(candidate):\n    assert candidate(1) == {i + 1}\n",
    }
    for i in range(2)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Small data for the tasks that are usually fetched."""
    place = tmp_path_factory.mktemp("two_processes")
    for name, rows in (("winogrande", CHOICES), ("humaneval", PROGRAMS)):
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = [
        f"Rain fell on day {i} of the {i + 2}nd week, and {i * 7} people stayed at home."
        for i in range(6)
    ]
    (place / "text.txt").write_text("\n\n".join(texts) + "\n")
    return place


def settings(folder, workdir, words="smoke", **more):
    files = tuple(f"{name}={folder / name}.jsonl" for name in ("winogrande", "humaneval"))
    given = {
        "eval.tasks": str(TASKS),
        "eval.files": str(files),
        "eval.source_text": folder / "text.txt",
    }
    fields = {f"config.{name}": value for name, value in (SIZES | given | more).items()}
    return {"config": f"configs/math_ift.py:{words}", "workdir": folder / workdir} | fields


def one_process(folder):
    with Start(folder, 1, **settings(folder, "one")) as start:
        return finished(start)[0]


def two_processes(folder):
    with Start(folder, 2, **settings(folder, "two")) as start:
        return finished(start)


@pytest.fixture(scope="module")
def ran(folder):
    """What one process printed, and what each of two did."""
    return one_process(folder), two_processes(folder)


def records(folder, when, task):
    header, *rows = (folder / "evals" / when / f"{task}.jsonl").read_text().splitlines()
    return json.loads(header), [json.loads(row) for row in rows]


# What Gloo prints for every device. Its threads write piece by piece, so that lines get mixed.
GLOO = re.compile(
    r"\[Gloo\] Rank|is connected to|peer ranks\.|Expected number of connected peer ranks is :|\d+"
)


def without_times(value):
    """A record without what no two runs share: how long its programs took."""
    if isinstance(value, list):
        return [without_times(each) for each in value]
    if isinstance(value, dict):
        return {name: without_times(each) for name, each in value.items() if name != "seconds"}
    return value


def close(value):
    """The value with its numbers up to rounding."""
    if isinstance(value, dict):
        return {name: close(each) for name, each in value.items()}
    if isinstance(value, list):
        return [close(each) for each in value]
    return (
        pytest.approx(value, rel=1e-4, abs=1e-6, nan_ok=True) if isinstance(value, float) else value
    )


def check_same_records(first, second, tasks, whens=("before", "after")):
    """The records of two runs: the same items, the same answers, scores up to rounding."""
    for when, task in itertools.product(whens, tasks):
        (about, one), (other, two) = (records(each, when, task) for each in (first, second))
        assert [record["id"] for record in two] == [record["id"] for record in one], (when, task)
        assert [without_times(r) for r in two] == [close(without_times(r)) for r in one], (
            when,
            task,
        )
        assert other["settings"] == about["settings"], (when, task)


def test_scores_on_two_processes_are_those_on_one(folder, ran):
    check_same_records(folder / "one", folder / "two", [name.partition(":")[0] for name in TASKS])


def test_the_table_on_two_processes_is_that_on_one(folder, ran):
    one, two = (json.loads((folder / name / "results.json").read_text()) for name in ("one", "two"))
    assert len(two["rows"]) >= len(TASKS)
    assert two["rows"] == close(one["rows"])
    assert two["facts"]["device"] == one["facts"]["device"], "eight CPU devices"
    losses = [
        [
            json.loads(line).get("loss")
            for line in (folder / name / "metrics.jsonl").read_text().splitlines()
        ]
        for name in ("one", "two")
    ]
    assert [x for x in losses[1] if x is not None] == close([x for x in losses[0] if x is not None])
    assert (folder / "two" / "summary.txt").exists()


def test_process_0_alone_shows_progress_and_the_table(ran):
    (one, _), ((first, _), (second, err)) = ran
    assert "written to" in first and "written to" in one
    assert GLOO.sub("", second + err).split() == []


def test_a_mistake_of_one_process_ends_both_with_its_words(folder):
    rows = [{"prompt": f"What is {i} + 1?", "response": f"It is {i + 1}."} for i in range(99)]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = lambda process: [f"--config.data.path={folder}/{('sums', 'missing')[process]}.jsonl"]  # noqa: E731
    with Start(folder, 2, own=own, **settings(folder, "mistake")) as start:
        (first, _, first_err), (second, _, second_err) = start.ends(120)
    assert (first, second) == (2, 2)
    mistake = second_err.partition("error: ")[2].splitlines()[0]
    assert "missing.jsonl" in mistake
    assert f"error: process 1 of 2 (host {socket.gethostname()}) ended: {mistake}" in first_err
    assert "Traceback" not in first_err + second_err


@pytest.mark.slow
@pytest.mark.parametrize("words", ["smoke", "smoke,full", "smoke,pissa+dora,r=4"])
def test_programs_and_sharded_weights_on_two_processes(folder, words):
    """The default mesh splits weights over both processes; generated programs run in process 0
    alone."""
    for name, count in (("coding_one", 1), ("coding_two", 2)):
        with Start(folder, count, **settings(folder, f"{name} {words}", words, **CODING)) as start:
            first, *others = finished(start)
        assert "humaneval: " in first[0], "the policy of the sandbox is said"
        assert all("humaneval" not in out + err for out, err in others)
    check_same_records(
        folder / f"coding_one {words}", folder / f"coding_two {words}", ("target_nll", "humaneval")
    )


@pytest.mark.slow
def test_a_run_is_evaluated_by_two_processes(folder, ran):
    out = []
    for name, count in (("scores_one", 1), ("scores_two", 2)):
        flags = {
            "run": folder / "one",
            "out": folder / name,
            "config.eval.tasks": "('target_nll:6','source_test:2')",
        }
        with Start(folder, count, "evaluate", **flags) as start:
            out.append(finished(start))
    assert "written to" in out[1][0][0] and "written to" not in out[1][1][0]
    check_same_records(
        folder / "scores_one",
        folder / "scores_two",
        ("target_nll", "source_test"),
        ("base", "tuned"),
    )


@pytest.mark.slow
def test_a_request_to_stop_one_process_saves_and_stops_both(folder):
    longer = {"train.steps": 2000, "checkpoint.every": 0, "eval.tasks": "('target_nll:2',)"}
    flags = settings(folder, "stopped", **longer)
    with Start(folder, 2, **flags) as start:
        while not (folder / "stopped" / "metrics.jsonl").exists():
            time.sleep(0.1)
        time.sleep(3)
        start.processes[1].send_signal(signal.SIGTERM)
        ends = start.ends(120)
    assert [code for code, _, _ in ends] == [130, 130], ends
    assert "stopped and saved at step" in ends[0][1] and "stopped" not in ends[1][1]
    assert list((folder / "stopped" / "checkpoints").iterdir())
