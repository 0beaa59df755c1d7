"""What lm-evaluation-harness writes with --log_samples: samples_TASK_DATE.jsonl, a line per item.

Of a task that was run several times into one folder, the newest file counts. A metric of a filter
is called METRIC,FILTER, as in the harness's own results.
"""

import functools
import json
import math
from collections import defaultdict
from pathlib import Path

from lfl_jax.core import files
from lfl_jax.errors import UserError
from lfl_jax.evals.metrics import Measured, Metric, Record
from lfl_jax.studies.records.scores import Scores
from lfl_jax.studies.records.transcripts import Transcript, of_choices

PATTERN = "samples_*.jsonl"
RESULTS = "results_*.json"
# The harness's ratios of sums: each item has [log-likelihood, its words or bytes].
EXPONENTIAL = ("word_perplexity", "byte_perplexity")
LOWER_IS_BETTER = (*EXPONENTIAL, "bits_per_byte", "perplexity")


def recognises(path: Path) -> bool:
    """By its samples or results, in the folder itself or in one per model below it."""
    return path.is_dir() and any(any(path.rglob(pattern)) for pattern in (PATTERN, RESULTS))


def read(path: Path, part: str = "") -> list[Scores]:
    """The one model of a folder.

    UserError for results without samples, and for a sample without its metrics, or logged twice.
    """
    tasks, prompts = {}, {}
    newest = _newest(path)
    if not newest:
        raise UserError(f"{path} has results without samples: run lm_eval with --log_samples")
    for task, file in sorted(newest.items()):
        samples = files.read_jsonl(file)
        if not samples:
            raise UserError(f"{file} holds no samples")
        with files.expecting(file, "samples of lm-evaluation-harness"):
            tasks[task] = _metrics(file, samples)
            prompts[task] = {_item(sample): sample.get("prompt_hash", "") for sample in samples}
    return [Scores(path.name, tasks, prompts, functools.partial(_transcripts, path))]


def _transcripts(path: Path, task: str) -> dict[str, Transcript]:
    """{item: what was asked and answered} of a task's samples."""
    file = _newest(path)[task]
    samples = files.read_jsonl(file)
    with files.expecting(file, "samples of lm-evaluation-harness"):
        return {_item(sample): _transcript(sample) for sample in samples}


def _transcript(sample: Record) -> Transcript:
    # Each request is logged with its arguments: a context, and a continuation or settings.
    logged = [tuple(request.values()) for request in (sample.get("arguments") or {}).values()]
    responses, target = sample.get("filtered_resps") or (), str(sample.get("target", ""))
    is_choice = len(logged) == len(responses) > 1 and all(map(_is_pair, responses))
    if is_choice and all(map(_is_pair, logged)):
        logprobs = [float(response[0]) for response in responses]
        return of_choices(logged, logprobs, int(target) if target.isdigit() else None)

    question = str(logged[0][0]) if logged and logged[0] else ""
    generated = (sample.get("resps") or [[""]])[0]
    output = generated[0] if isinstance(generated, list) and generated else generated
    return Transcript(question, target, str(output))


def _is_pair(logged: object) -> bool:
    """As a context with its continuation is, and a log-likelihood with whether it is greedy."""
    return isinstance(logged, list | tuple) and len(logged) == 2


def _newest(path: Path) -> dict[str, Path]:
    """The last file of each task, by the date in its name."""
    by_task: dict[str, Path] = {}
    for file in sorted(path.rglob(PATTERN), key=lambda file: file.name):
        # samples_TASK_2026-11-30T10-00-00.000000.jsonl; a task's own name may have underscores.
        stem = file.stem.removeprefix("samples_")
        head, _, date = stem.rpartition("_")
        by_task[head if date[:2] == "20" and "T" in date else stem] = file
    return by_task


def _item(sample: Record) -> str:
    # The hash is of the document's content: the same item also where two logs number it apart.
    return str(sample.get("doc_hash") or sample["doc_id"])


def _metrics(file: Path, samples: list[Record]) -> dict[str, Measured]:
    """{metric: its values}, in the order of the samples' own list."""
    by_metric: dict[str, list[Record]] = defaultdict(list)
    for sample in samples:
        names = sample.get("metrics")
        if not names:
            raise UserError(f"{file}: sample {sample.get('doc_id')} names no metrics")
        for name in names:
            by_metric[_with_filter(name, sample)].append(_record(file, sample, name))
    return {name: _measured(file, name, records) for name, records in by_metric.items()}


def _with_filter(name: str, sample: Record) -> str:
    filtered_by = sample.get("filter", "none")
    return name if filtered_by == "none" else f"{name},{filtered_by}"


def _record(file: Path, sample: Record, name: str) -> Record:
    """value / weight is the item's score; choices: of a multiple-choice question."""
    value, weight = _value_and_weight(sample.get(name))
    if value is None:
        raise UserError(
            f"{file}: {name} of item {sample.get('doc_id')} is {json.dumps(sample.get(name))};"
            " expected a number"
        )
    choices = len(sample.get("resps") or ())
    item = _item(sample)
    return {"id": item, "cluster": item, "value": value, "weight": weight, "choices": choices}


def _value_and_weight(logged: object) -> tuple[float | None, float]:
    if isinstance(logged, list) and len(logged) == 2 and _is_number(logged[0]):
        # A log-likelihood and its words or bytes: the harness averages sums, and so does this.
        return -float(logged[0]), float(logged[1])
    return (float(logged), 1.0) if _is_number(logged) else (None, 1.0)


def _is_number(value: object) -> bool:
    return isinstance(value, bool | int | float) and abs(value) < files.HUGE


def _measured(file: Path, name: str, records: list[Record]) -> Measured:
    items = {record["id"] for record in records}
    if len(items) < len(records):
        raise UserError(f"{file}: {len(records)} samples of {len(items)} items for {name}")

    plain = name.partition(",")[0]
    is_ratio = any(record["weight"] != 1.0 for record in records)
    is_proportion = not is_ratio and {record["value"] for record in records} <= {0.0, 1.0}
    scale = 1 / math.log(2) if plain == "bits_per_byte" else 1.0
    metric = Metric(
        name,
        lambda record: record["value"] * scale,
        name,
        weight="weight" if is_ratio else None,
        interval="proportion" if is_proportion else "mean",
        percent=is_proportion,
        exponential=plain in EXPONENTIAL,
        higher_is_better=plain not in LOWER_IS_BETTER,
        chance=_chance if is_proportion and plain.startswith("acc") else None,
    )
    return metric.measure(records)[0]


def _chance(record: Record) -> float | None:
    """Of guessing among the choices; one response is a generated answer."""
    return 1 / record["choices"] if record["choices"] > 1 else 0.0
