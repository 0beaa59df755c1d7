"""A user's own task, a few lines outside the package, is evaluated and reported like the others."""

import dataclasses
import io
import json

import pytest
from lfl_jax.configs import math_ift
from rich.console import Console

from lfl_jax import train
from lfl_jax.config import Config
from lfl_jax.errors import UserError
from lfl_jax.evals import tasks
from lfl_jax.evals.metrics import QUANTITY, Metric
from lfl_jax.evals.requests import encode_pairs
from lfl_jax.evals.task import Generate, Likelihood, Task, common_fields
from lfl_jax.report import plots, results_json, table
from lfl_jax.report.rows import report


@dataclasses.dataclass(frozen=True)
class Rhyme:
    id: str
    cluster: str
    prompt: str
    word: str


def rhymes(inputs):
    return [
        Rhyme(str(i), str(i), "A cat sat on the", word) for i, word in enumerate(("mat", "hat"))
    ]


def rhyme(item, text):
    return common_fields(item) | {
        "letters": float(len(text)),
        "rhymes": float(text.strip().endswith("at")),
    }


RHYMES = Task(
    name="rhymes",
    version=1,
    label="rhymes",
    items=rhymes,
    method=Generate(("\n",), rhyme),
    metrics=(
        Metric("rhymes", "rhymes", "rhyme"),
        Metric("letters", lambda record: record["letters"], "letters", **QUANTITY),
    ),
)
SURPRISE = Task(
    name="surprise",
    version=1,
    label="surprise",
    items=rhymes,
    method=Likelihood(
        lambda item, tokenizer, length: encode_pairs(
            [(item.prompt, f" {item.word}")], tokenizer, length
        ),
        lambda item, scored: {"id": item.id, "cluster": item.cluster, "nats": -scored[0].ll},
    ),
    metrics=(
        Metric("nats", "nats", "nats", section="forgetting", higher_is_better=False, **QUANTITY),
    ),
)
OWN = (RHYMES, SURPRISE)


def config(**values):
    c = math_ift.get_config("smoke")
    c.train.steps = 2
    c.eval.update(
        {"tasks": ("rhymes:2", "surprise"), "every_tasks": ("surprise:1",), "every": 1} | values
    )
    c.log.tensorboard = False
    return Config.from_dict(c)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return train.Run(config(), folder, OWN), train.run(train.Run(config(), folder, OWN))


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_it_is_in_the_table_and_in_results_json(run):
    request, outcome = run
    found, out = report(outcome.before, outcome.after), io.StringIO()
    table.show(found, {}, [], request.workdir, Console(file=out, width=80))
    lines = out.getvalue().splitlines()
    assert lines[0].startswith("learned: undecided, rhymes, rhyme: 0.0% -> 0.0%")
    assert lines[2].startswith("forgotten: ") or lines[1].startswith("forgotten: ")
    for label in ("rhymes, letters", "surprise, nats"):
        assert any(line.startswith(label) for line in lines)
    results_json.save(found, outcome.facts, request.workdir)
    rows = json.loads((request.workdir / "results.json").read_text())["rows"]
    for task in OWN:
        for metric in (*task.metrics, *task.method.metrics):
            variants = [
                row["variant"]
                for row in rows
                if (row["task"], row["metric"]) == (task.name, metric.name)
            ]
            assert variants == ["before", "after", "change"]


def test_it_is_evaluated_during_training_and_its_scores_are_in_metrics_jsonl(run):
    request, outcome = run
    by_name = {}
    for record in metrics(request.workdir):
        for name, value in record.items():
            by_name.setdefault(name, {})[record["step"]] = value
    assert list(by_name["dev/surprise/nats"]) == [0, 1, 2], "the base's first"
    assert by_name["before/rhymes/letters"] == {0: outcome.before["rhymes"].metrics["letters"].mean}
    assert by_name["after/surprise"] == {2: outcome.after["surprise"].metrics["nats"].mean}
    assert plots._dev_scores(request.workdir)["dev/surprise"].keys() == {0, 1, 2}


def test_a_finished_run_writes_nothing_twice(run):
    request, outcome = run
    before = metrics(request.workdir)
    again = train.run(request)
    assert metrics(request.workdir) == before
    assert again.after == outcome.after and again.trained == 0


def test_names_must_be_new():
    taken = dataclasses.replace(RHYMES, name="gsm8k")
    with pytest.raises(UserError, match="there is already an evaluation called 'gsm8k'"):
        tasks.with_own([taken])
    with pytest.raises(UserError, match="unknown evaluation 'rhymes'"):
        tasks.find("rhymes")
    assert tasks.find("rhymes", tasks.with_own(OWN)) is RHYMES
