"""Readers of what runs and studies leave, ours and other programs'."""

import csv
import functools
import gzip
import io
import json
import math
from pathlib import Path
from unittest import mock

from lfl_jax.configs import base
from lfl_jax.configs.from_run import get_config

from fuzzing import mutations
from fuzzing.of_data import every
from fuzzing.reader import Reader, nothing_wrong
from lfl_jax.analysis import contamination, run_weights, training_spectra
from lfl_jax.config import Config
from lfl_jax.io import checkpoint_checks, workdir
from lfl_jax.io.metrics import METRICS_FILE, StepRecords
from lfl_jax.planning import cpu_probe
from lfl_jax.report import plots, results_json
from lfl_jax.run_setup import earlier_run
from lfl_jax.studies import across, best_arms
from lfl_jax.studies import records as score_readers
from lfl_jax.studies.records import run_directories, run_measures, run_transcripts
from lfl_jax.studies.running import finished, reuse

LOGS = Path(__file__).parents[1] / "parity" / "harness_logs" / "a"


def _document(rng, value):
    return json.dumps(value).encode() if rng is None else mutations.json_bytes(rng, value)


def _lines(rng, values):
    whole = "".join(json.dumps(value) + "\n" for value in values).encode()
    return whole if rng is None else mutations.lines_bytes(rng, values)


# -- a run's config


@functools.cache
def _config():
    return Config.from_dict(base.base().to_dict())


@functools.cache
def _record():
    config = _config()
    return {"hash": config.hash(), "config": config.values(), "code": {}}


def write_config(rng, folder):
    (folder / "config.json").write_bytes(_document(rng, _record()))


def read_config(folder):
    config = earlier_run.read_config(folder)
    workdir.read_code(folder)
    get_config(str(folder))
    return config


def wrong_config(config, folder):
    """A field that is not what the file says; times of half seconds and the like have one form."""
    raw, values = json.loads((folder / "config.json").read_bytes()), config.values()
    for section, fields in raw["config"].items():
        for name, value in fields.items() if isinstance(fields, dict) else ():
            if section in values and name in values[section]:
                ours = json.loads(json.dumps(values[section][name]))
                is_flag = isinstance(value, bool) or isinstance(ours, bool)
                if ours != value or (is_flag and type(ours) is not type(value)):
                    return f"{section}.{name} is {value!r:.60} in the file, read as {ours!r:.60}"
    return ""


# -- its records

HEADER = {"settings": {"task": "source_nll", "items": 3, "content": "c"}, "plan": {"batches": 1}}
NLL = [
    {"id": str(i), "cluster": str(i), "nll": 4.5 + i, "tokens": 3, "words": 3, "bytes": 15}
    for i in range(3)
]
FACTS = [{"id": f"e{i}", "cluster": f"e{i}", "acc": 0.0, "gold_logprob": -2.0} for i in range(3)]
RESULTS = {
    "answer": {"learned": None, "forgotten": None},
    "rows": [
        {"task": "target_nll", "metric": "nll", "variant": "before", "estimate": 1.5},
        {"task": "source_nll", "metric": "nll", "variant": "after", "estimate": 2.5},
    ],
    "facts": {"trainable": 65536, "steps": 8, "provenance": {"warnings": []}},
    "flags": [],
}
METRICS = [{"step": i, "time": 1.5, "loss": 2.0, "dev/source_nll/nll": 3.0} for i in (1, 2, 3)] + [
    {"step": 4, "time": 2.5, "loss": None, "nonfinite": {"loss": "nan"}}
]
OVERLAPS = {"tasks": {"gsm8k": {"ngrams": ["a", "b"], "items": 9}}, "source": {"name": "x"}}
CURVATURE = {"value": 3.5, "converged": True, "start": "x", "microbatches": 2}
UNIGRAMS = {"kl": 0.5, "null": 0.1}
WEIGHTS = [{"version": run_weights.VERSION, "step": 8, "weights": 2, "top_k": 10, "epsilon": 0.5}]
WEIGHTS += [
    {"weight": f"layers/{i}/attn/q", "layer": i, "spectral": 1.0, "frobenius": 2.0, "k90": 3,
     "base_frobenius": 9.0, "k90_random": 4, "effective_rank": 2.0, "effective_rank_random": 3.0,
     "stable_rank": 1.0, "stable_rank_random": 2.0, "intruders": 0, "intruders_random": 0}
    for i in range(2)
]  # fmt: skip
SPECTRA = [{"step": 4, "weight": "layers/0/attn/q", "k90": 3, "effective_rank": 2.0}]
ARM_COLUMNS = ("method", "learning rate", "steps", "seed", "learning", "change")
ARMS = [["lora", "0.001", "8", str(seed), "0.5", "1"] for seed in range(2)]
VERDICTS = (
    "first",
    "second",
    "equal",
    "effect",
    "95 % low",
    "95 % high",
    "reason",
    "first forgets",
)
VERDICT = [["lora", "full", "learning", "-0.1", "-0.2", "-0.05", "", "less"]]


def _csv_bytes(rng, head, lines):
    out = io.StringIO()
    cells = [list(head), *map(list, lines)]
    if rng is not None:
        row = rng.choice(cells)
        row[rng.randrange(len(row))] = rng.choice(
            ["", "nan", "inf", "x", "1e999", "-1", '"', "\x00"]
        )
        if rng.random() < 0.2:
            row.pop()
    csv.writer(out, lineterminator="\n").writerows(cells)
    data = out.getvalue().encode()
    return mutations.damaged(rng, data) if rng is not None and rng.random() < 0.3 else data


def write_run(rng, folder):
    """A run directory whose one file is mutated."""
    parts = {
        "results.json": lambda rng: _document(rng, RESULTS),
        METRICS_FILE: lambda rng: _lines(rng, METRICS),
        contamination.FILE: lambda rng: _document(rng, OVERLAPS),
        run_measures.CURVATURE: lambda rng: _document(rng, CURVATURE),
        run_measures.UNIGRAMS: lambda rng: _document(rng, UNIGRAMS),
        run_weights.FILE: lambda rng: _lines(rng, WEIGHTS),
        training_spectra.FILE: lambda rng: _lines(rng, SPECTRA),
        reuse.ORIGIN: lambda rng: _document(rng, {"from": ""}),
        best_arms.RUNS: lambda rng: _csv_bytes(rng, ARM_COLUMNS, ARMS),
        across.VERDICTS: lambda rng: _csv_bytes(rng, VERDICTS, VERDICT),
        "evals/before/source_nll.jsonl": lambda rng: _lines(rng, [HEADER, *NLL]),
        "evals/before/lab_new_facts.jsonl": lambda rng: _lines(rng, [HEADER, *FACTS]),
        "evals/dev-000004/source_nll.jsonl": lambda rng: _lines(rng, [HEADER, *NLL]),
        "peaks.json": lambda rng: _document(rng, PEAKS),
    }
    spoiled = None if rng is None else rng.choice(list(parts))
    for name, content in parts.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content(rng if name == spoiled else None))


PEAKS = {
    "name": "cpu", "bf16": 1e11, "float32": 2e11, "hbm_bytes": 8 << 30, "usable": 0.9,
    "hbm_rate": 1e10, "link_rate": 1e9, "network_rate": 1e9, "per_host": 1, "torus": 0,
    "largest": 1, "narrow": 1e10,
}  # fmt: skip


def read_run(folder):
    """Everything that reports, studies and resumed runs read; every error is met."""

    def resumed():
        StepRecords(folder / METRICS_FILE, 3)

    return every(
        lambda: results_json.saved_facts(folder),
        lambda: list(finished._reported(folder, "before")),
        lambda: plots._dev_scores(folder),
        lambda: contamination.read(folder),
        lambda: run_measures.read(folder),
        lambda: training_spectra.read(folder),
        lambda: reuse.origins(folder),
        lambda: best_arms._learned(folder),
        lambda: _contrast(folder),
        lambda: [_estimates(scores) for scores in run_directories.read(folder)],
        lambda: [_estimates(scores) for scores in run_directories.along(folder).values()],
        lambda: run_directories.contents(folder, "before"),
        lambda: run_transcripts.read(folder / "evals" / "before", "source_nll"),
        lambda: run_transcripts.read(folder / "evals" / "before", "lab_new_facts"),
        lambda: cpu_probe.read_or_measure(str(folder / "peaks.json"), _config()).memory,
        resumed,
    )


def _contrast(folder):
    # Of its base, which is in a run's config.
    with mock.patch.object(across, "parameters", return_value=1000):
        return across.read(folder, None, "learning").se


def _estimates(scores):
    return {
        f"{task}/{name}": measured.estimate.mean
        for task, metrics in scores.tasks.items()
        for name, measured in metrics.items()
    }


# -- scores of other programs


@functools.cache
def _samples():
    samples = []
    for file in sorted(LOGS.glob("*.gz")):
        lines = gzip.decompress(file.read_bytes()).splitlines()[:4]
        samples.append((file.name.removesuffix(".gz"), [json.loads(line) for line in lines]))
    return samples


def write_logs(rng, folder):
    samples = _samples()
    spoiled = None if rng is None else rng.randrange(len(samples))
    for i, (name, lines) in enumerate(samples):
        (folder / name).write_bytes(_lines(rng if i == spoiled else None, lines))


def read_scores(folder):
    (place,) = [folder] if any(folder.glob("samples_*")) else folder.glob("*.csv")
    read = score_readers.read(str(place))
    for scores in read:
        for task in scores.tasks:
            scores.transcripts(task)
    return [_estimates(scores) for scores in read]


SCORES = [["a", str(i), str(i % 2), f"c{i}"] for i in range(6)]


def write_scores(rng, folder):
    (folder / "s.csv").write_bytes(_csv_bytes(rng, ("run", "item", "score", "cluster"), SCORES))


def wrong_scores(value, folder):
    numbers = [x for estimates in value for x in estimates.values() if isinstance(x, float)]
    return "" if all(map(math.isfinite, numbers)) else "a score that is not finite"


# -- the list of a checkpoint's files


def write_checksums(rng, folder):
    step = folder / "checkpoints" / "2"
    (step / "adapter").mkdir(parents=True)
    (step / checkpoint_checks.METADATA).write_text("{}")
    (step / "adapter" / "array").write_bytes(bytes(range(256)))
    checkpoint_checks.write(step)
    if rng is None:
        return
    file = step / rng.choice([checkpoint_checks.FILE] * 3 + ["adapter/array"])
    if file.name == checkpoint_checks.FILE:
        file.write_bytes(mutations.json_bytes(rng, json.loads(file.read_text())))
    else:
        file.write_bytes(mutations.damaged(rng, file.read_bytes()))


def read_checksums(folder):
    checkpoint_checks.set_aside(folder / "checkpoints")
    return (folder / "checkpoints" / "2" / "adapter" / "array").read_bytes()


def wrong_checksums(value, folder):
    return "" if value == bytes(range(256)) else "damaged arrays"


READERS = {
    "config.json of a run": Reader(write_config, read_config, wrong_config, 1.5),
    "run directory": Reader(write_run, read_run, nothing_wrong, 4),
    "lm-eval logs": Reader(write_logs, read_scores, wrong_scores, 1),
    "scores in CSV": Reader(write_scores, read_scores, wrong_scores, 0.5),
    "checksums of a checkpoint": Reader(write_checksums, read_checksums, wrong_checksums, 0.5),
}
