"""A soak: runs of the lab one after another in one process for hours, and whether anything grows.

    python tests/soak.py FOLDER [--minutes=110]      (takes one core; a run is about 3 s)
    python tests/soak.py FOLDER --summary            what FOLDER/soak.csv says, also meanwhile

Rounds of a study (`studies.running.execute`): five methods, two rates, a seed, 80 steps each,
evaluated before, on the way and after. One method has three ranks in turns, so that all programs
are there after three rounds. After each run a line of
soak.csv: what the process has of the system, and the CPU time of a training step (CPU time, as
others use the machine, too). "Flat" is by BOUNDS: the change from the fourth round to the end by
the Theil-Sen slope. Exit code 1 where one is not.
"""

import argparse
import csv
import functools
import os
import shutil
import statistics
import sys
import time
from pathlib import Path

import jax
import numpy as np
from lfl_jax.configs.studies import base, lab
from scipy import stats

from lfl_jax import assets, lab_base, train_log
from lfl_jax.core.process import keep_compiled_programs
from lfl_jax.run_setup.shared import Shared
from lfl_jax.studies import grid
from lfl_jax.studies.running import execute
from lfl_jax.train_step import train_step

COMPILING = 30  # runs until every program is there
# {column: (largest change over the soak that is called flat, in which unit)}; "%" is of the median.
BOUNDS = {
    "memory_mib": (5.0, "%"),
    "mappings": (1500.0, ""),  # of 65,530; a leak of 660 a run would be there in three runs
    "descriptors": (2.0, ""),
    "threads": (2.0, ""),
    "programs": (2.0, ""),
    "cpu_ms_per_step": (5.0, "%"),
}


def study_of(index: int) -> grid.StudyConfig:
    """The study of a round: seeds that no other has."""
    s = lab.shared()
    s.name, s.seeds = "Soak", (index,)
    s.arms.lora = base.arm("lora,r=16", lr=(1e-3, 4e-3))
    s.arms.dora = base.arm("dora,r=16", lr=(1e-3, 4e-3))
    s.arms.full = base.arm("full", lr=(1e-4, 7e-4))
    dropout = {"adapter": {"dropout": 0.1}, "train": {"microbatch": 2}}
    s.arms.accumulated = base.arm("lora,r=8", lr=(1e-3, 4e-3), **dropout)
    s.arms.other = base.arm(f"lora,r={17 + 2 * (index % 3)}", lr=(1e-3, 4e-3))
    s.contrasts = (("lora", "full"),)
    return grid.read(s.to_dict())


class StepTimes:
    """CPU time of this process between two steps' metrics, in s."""

    def __init__(self) -> None:
        self.last, self.seconds = 0.0, []
        write = train_log.StepLog.write

        @functools.wraps(write)
        def timed(log, step, metrics, batch):
            write(log, step, metrics, batch)
            now = time.process_time()
            # Of the first step there is only the time since the last run.
            self.seconds += [now - self.last] if step > 1 else []
            self.last = now

        train_log.StepLog.write = timed

    def median_ms(self) -> float:
        """Of the steps since the last call; evaluations on the way are a few outliers."""
        seconds, self.seconds = self.seconds, []
        return 1e3 * statistics.median(seconds) if seconds else float("nan")


def held() -> dict[str, float]:
    """What this process has of the system."""
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return {
        "memory_mib": round(resident / 2**20, 1),
        "mappings": Path("/proc/self/maps").read_text().count("\n"),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "programs": len(jax.devices()[0].client.live_executables()),
        "step_programs": train_step._cache_size(),
    }


def soak(folder: Path, minutes: float) -> None:
    """Runs until the time is over; a line of soak.csv after each."""
    keep_compiled_programs(assets.writable("compiled"))
    started, times, shared, index, number = time.monotonic(), StepTimes(), Shared(), 0, 0
    with (folder / "soak.csv").open("w", newline="") as file:
        lines = None

        def do(config, run_folder, base_records, shared):
            nonlocal number, lines
            finished = execute.train_and_save(config, run_folder, base_records, shared)
            number += 1
            line = {"run": number, "minutes": round((time.monotonic() - started) / 60, 2)}
            # A method by what a program depends on: those of one rank are compared with each other.
            line |= {"method": run_folder.name.split("-")[0]} | held()
            line["cpu_ms_per_step"] = round(times.median_ms(), 3)
            if lines is None:
                lines = csv.DictWriter(file, line)
                lines.writeheader()
            lines.writerow(line)
            file.flush()
            return finished and time.monotonic() < started + 60 * minutes

        while time.monotonic() < started + 60 * minutes:
            config, place = study_of(index), folder / f"round{index}"
            study = execute.Study(place, grid.expand(config, place), retention="none")
            lab_base.prepare(study.runs[0].config, quiet=True)
            is_stopped = not execute.execute(study, do, quiet=True, shared=shared)
            for name, ended in study.ended().items():
                if ended.state is not execute.State.FINISHED:
                    print(f"round {index}: {name} {ended.state}: {ended.reason}", flush=True)
            shutil.rmtree(place)
            index += 1
            # By SIGTERM, or as the time is over.
            if is_stopped:
                return


def changes(rows: list[dict[str, str]]) -> dict[str, tuple[float, float, float]]:
    """{column: (its median, its change over all rows, half the width of that one's interval)}.

    By the Theil-Sen slope, over rows after COMPILING. CPU time is first taken relative to its
    method's median, and is left out for the method of which each round has another.
    """
    rows = rows[COMPILING:]
    result = {}
    for column in BOUNDS:
        used = [r for r in rows if column != "cpu_ms_per_step" or r["method"] != "other"]
        values = np.array([float(row[column]) for row in used])
        median = float(np.median(values))
        if column == "cpu_ms_per_step":
            methods = np.array([row["method"] for row in used])
            for method in set(methods):
                values[methods == method] *= median / np.median(values[methods == method])
        x = np.array([float(row["run"]) for row in used])
        slope, _, low, high = stats.theilslopes(values, x)
        span = x[-1] - x[0]
        result[column] = median, slope * span, (high - low) / 2 * span
    return result


def summary(folder: Path) -> bool:
    """Print a line a column; whether all are flat."""
    with (folder / "soak.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    print(f"{len(rows)} runs in {float(rows[-1]['minutes']):.0f} min")
    are_flat = []
    for column, (median, change, half_width) in changes(rows).items():
        most, unit = BOUNDS[column]
        scale = 100 / median if unit == "%" else 1.0
        are_flat.append(abs(change * scale) <= most)
        print(
            f"{column:16} median {median:9.1f}, change {change * scale:+8.2f}{unit} +- "
            f"{half_width * scale:.2f}{unit} over the soak (bound {most:g}{unit}):"
            f" {'flat' if are_flat[-1] else 'NOT FLAT'}"
        )
    return all(are_flat)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=110)
    parser.add_argument("--summary", action="store_true")
    options = parser.parse_args()
    if not options.summary:
        options.folder.mkdir(parents=True, exist_ok=True)
        soak(options.folder, options.minutes)
    sys.exit(0 if summary(options.folder) else 1)
