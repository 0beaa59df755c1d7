"""Kill -9 at random moments: what finishes afterwards is what nobody disturbed, bit for bit.

    python tests/kills.py FOLDER [--kills=100] [--seed=0] [--subject=lora]

About 15 minutes of one core. Three subjects: LoRA with dropout and accumulation, full finetuning,
and a study of eight runs with its report. A directory is killed several times before it may finish:
at the start, in the base's evaluation, in training, in a save, in the final evaluation, in the
report, and once more when it has finished and is started again. Compared are parameters, optimizer
and step of the last checkpoint, metrics, records of every item, contamination, results, and a
study's tables. Nothing half-written may stay, and no start may end in a traceback.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import shutil
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random
from types import ModuleType
from typing import TypeVar

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

# Whatever a run imports on its way, for all processes that are forked.
from lfl_jax import api, main, study  # noqa: F401
from lfl_jax.errors import entry
from lfl_jax.studies import outcome  # noqa: F401
from lfl_jax.studies.running import execute as study_runs  # noqa: F401

T = TypeVar("T")
# Every start then has the packages already, whose import takes longer than the run.
FORK = multiprocessing.get_context("fork")

# Of two equal runs these differ, in metrics.jsonl and in the facts of results.json.
CLOCKS = {"time", "tokens_per_s", "training_seconds", "wall_seconds", "starts", "peak_host_bytes"}
UNFINISHED = ("*.tmp", "*.partial", "*.orbax-checkpoint-tmp", "run.lock*", ".checkpoints.removed")
# {what is interrupted: files of which the first change begins it, the longest wait from there}; the
# wait is in times of what an undisturbed run takes, as the machine may be busy.
RUN_PHASES = {
    "start": ("", 0.6),
    "evaluation": ("evals/before/*", 0.1),
    "training": ("metrics.jsonl", 0.15),
    "saving": ("checkpoints/*.orbax-checkpoint-tmp", 0.02),
    "final evaluation": ("evals/after/*", 0.1),
    "report": ("*results.json*", 0.3),
}
STUDY_PHASES = {
    "start": ("", 0.4),
    "study": ("runs.jsonl", 0.15),
    "training in a study": ("runs/*/metrics.jsonl", 0.1),
    "saving in a study": ("runs/*/checkpoints/*.orbax-checkpoint-tmp", 0.01),
    "report of a study": ("report/*", 0.3),
}
AGAIN = "again, when finished"
LITTLE = (
    "--config.data.size=24",
    "--config.data.seq_len=256",
    "--config.eval.seq_len=256",
    "--config.eval.rows=2",
    "--config.eval.every_tasks=('target_nll:4',)",
    "--config.eval.every=4",
    "--config.checkpoint.every=2",
    "--config.checkpoint.keep=2",
    "--config.train.steps=8",
)
TWO = ("--config.eval.tasks=('target_nll:8','source_nll:4')",)
ONE = ("--config.eval.tasks=('target_nll:8',)",)
NOISE = ("--config.adapter.dropout=0.1", "--config.train.batch=4", "--config.train.microbatch=2")


@dataclass(frozen=True)
class Subject:
    """What is killed: a command, its phases, and how many kills a directory gets at most."""

    module: ModuleType
    options: tuple[str, ...]
    phases: dict[str, tuple[str, float]]
    most: int

    def start(self, folder: Path, log: Path | None = None) -> BaseProcess:
        """A process of it in this directory; what it prints is added to a log, beside it."""
        process = FORK.Process(target=execute, args=(self, folder, log or log_of(folder)))
        process.start()
        return process


def execute(subject: Subject, folder: Path, log: Path) -> None:
    """The command, as a process of its own does it."""
    log.parent.mkdir(parents=True, exist_ok=True)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    command = [subject.module.__name__, *subject.options, f"--workdir={folder}"]
    entry(subject.module.main, command)


SUBJECTS = {
    "lora": Subject(
        main, ("--config=configs/math_ift.py:smoke", *LITTLE, *ONE, *NOISE), RUN_PHASES, 5
    ),
    "full": Subject(
        main, ("--config=configs/math_ift.py:smoke,full", *LITTLE, *TWO), RUN_PHASES, 5
    ),
    "study": Subject(study, ("--config=configs/studies/smoke.py", "--quiet"), STUDY_PHASES, 6),
}
# How many of a hundred kills each gets.
SHARES = {"lora": 40, "full": 40, "study": 20}


def log_of(folder: Path) -> Path:
    """The file beside a directory that its processes print to."""
    return folder.with_name(f"{folder.name}.log")


def state_of(folder: Path) -> dict[str, object]:
    """Everything that two equal runs agree on, of a run's directory or a study's."""
    state = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.name == "metrics.jsonl":
            records = map(json.loads, path.read_text().splitlines())
            state[name] = [without_clocks(record) for record in records]
        elif path.name == "results.json":
            results = json.loads(path.read_text())
            state[name] = results | {"facts": without_clocks(results["facts"])}
        elif (
            ("evals" in path.parts and path.suffix == ".jsonl")
            or path.name == "contamination.json"
            or (path.parent.name == "tables" and path.suffix == ".csv")
        ):
            state[name] = path.read_text()
        elif path.parent.name == "checkpoints" and path.name.isdigit():
            state |= {f"{name}{key}": bits for key, bits in arrays(path).items()}
    return state


def without_clocks(values: dict[str, object]) -> dict[str, object]:
    """Without what says how long something took."""
    return {name: value for name, value in values.items() if name not in CLOCKS}


def arrays(checkpoint: Path) -> dict[str, bytes]:
    """{a leaf's path: its bytes}, as orbax alone reads them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that shardings are read from the file
        tree = ocp.load_checkpointables(checkpoint)
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): np.asarray(leaf).tobytes() for path, leaf in leaves}


def differences(folder: Path, whole: dict[str, object]) -> list[str]:
    """What a finished directory has that the undisturbed one has not, and what should be gone."""
    state = state_of(folder)
    wrong = [name for name in {*state, *whole} if state.get(name) != whole.get(name)]
    for pattern in UNFINISHED:
        wrong += [f"{path.name} stayed" for path in folder.rglob(pattern)]
    return sorted(wrong)


def signature(folder: Path, pattern: str) -> list[tuple[str, int]]:
    """Which files there are, and how long they are."""
    sizes = []
    for path in sorted(folder.glob(pattern)):
        try:
            sizes.append((path.name, path.stat().st_size))
        except FileNotFoundError:  # renamed since it was listed
            sizes.append((path.name, -1))
    return sizes


def wait_for(is_running: Callable[[], bool], folder: Path, pattern: str) -> bool:
    """Wait for a change of these files; False where the process has ended."""
    before = signature(folder, pattern) if pattern else None
    while is_running():
        if before is None or signature(folder, pattern) != before:
            return True
        time.sleep(0.002)
    return False


def killed(subject: Subject, folder: Path, pattern: str, seconds: float) -> bool:
    """Start it, and kill it so many seconds after a change; False where it ended before."""
    process = subject.start(folder)
    wait_for(process.is_alive, folder, pattern)
    process.join(seconds)
    is_running = process.is_alive()
    process.kill()
    process.join()
    return is_running


def finish(subject: Subject, folder: Path) -> list[str]:
    """Let it end; what is wrong with that."""
    process = subject.start(folder)
    process.join()
    wrong = [] if process.exitcode == 0 else [f"exit code {process.exitcode}"]
    return wrong + ["a traceback"] * ("Traceback" in log_of(folder).read_text(errors="replace"))


def apart(function: Callable[..., T], *arguments: object) -> T:
    """Its result, computed by another process: this one forks, and may have no threads of jax's."""
    here, there = FORK.Pipe(duplex=False)
    process = FORK.Process(target=lambda: there.send(function(*arguments)))
    process.start()
    # Else its end without a result would not be the end of the connection.
    there.close()
    result = here.recv()
    process.join()
    return result


def chain(subject: Subject, folder: Path, count: int, whole: float, draw: Random) -> list[str]:
    """Kill one directory up to `count` times, in the order of its phases; which phases it was.

    whole: seconds of an undisturbed run.
    """
    order = list(subject.phases)
    kills = []
    for phase in sorted(draw.choices(order, k=count), key=order.index):
        pattern, longest = subject.phases[phase]
        if not killed(subject, folder, pattern, draw.uniform(0, longest * whole)):
            break
        kills.append(phase)
    return kills


def attack(name: str, place: Path, count: int, draw: Random) -> tuple[Counter, int]:
    """({phase: kills}, directories that differ), of one subject in as many directories as needed."""
    subject, kills, different, whole = SUBJECTS[name], Counter(), 0, place / name / "whole"
    started = time.monotonic()
    assert not finish(subject, whole), log_of(whole).read_text()
    seconds, undisturbed = time.monotonic() - started, apart(state_of, whole)
    # Each in a folder of its own: a study takes finished runs from those beside it.
    for folder in (place / f"{name}-{index}" / "killed" for index in itertools.count()):
        if kills.total() == count:
            return kills, different
        phases = chain(subject, folder, min(subject.most, count - kills.total()), seconds, draw)
        wrong = finish(subject, folder)
        if kills.total() + len(phases) < count:
            phases += [AGAIN] * killed(subject, folder, "", draw.uniform(0, seconds))
            wrong += finish(subject, folder)
        kills.update(phases)
        wrong += apart(differences, folder, undisturbed)
        different += bool(wrong)
        print(
            f"{folder.parent.name}: killed in {', '.join(phases)}: {wrong or 'the same'}",
            flush=True,
        )
        if not wrong:
            shutil.rmtree(folder.parent)


def attack_all(place: Path, names: Sequence[str], count: int, seed: int) -> bool:
    """These subjects, with their shares of so many kills; whether nothing was lost."""
    place.mkdir(parents=True)
    lost, started = 0, time.monotonic()
    for name in names:
        draw = Random(f"{seed} {name}")
        kills, different = attack(name, place, round(SHARES[name] * count / 100), draw)
        lost += different
        print(f"{name}: {kills.total()} kills, {different} directories differ; {dict(kills)}")
    print(f"{lost} directories differ, {time.monotonic() - started:.0f} s", flush=True)
    return not lost


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--subject", action="append", choices=SUBJECTS)
    options = parser.parse_args()
    chosen = options.subject or tuple(SUBJECTS)
    sys.exit(0 if attack_all(options.folder, chosen, options.kills, options.seed) else 1)
