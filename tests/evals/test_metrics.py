"""Every metric that a task declares is measured, reported and in results.json."""

import json
import pickle
from pathlib import Path

import pytest

from lfl_jax.evals.records import RecordFile
from lfl_jax.evals.run import Result
from lfl_jax.evals.task import Execute, Generate, Likelihood
from lfl_jax.evals.tasks import TASKS
from lfl_jax.report import results_json
from lfl_jax.report.rows import report

# Fields that records of every kind have, so that one record serves each task.
RECORD = {
    "acc": 1.0, "acc_norm": 1.0, "acc_char": 0.5, "whole": 0.0, "gold": 0, "gold_logprob": -1.0,
    "gold_logprob_norm": -0.5, "ll": [-1.0, -2.0], "tokens": [3, 4], "characters": [5, 6], "bytes": [6, 7],
    "strict": "7", "boxed": "7", "answer": "7", "exact": 1.0, "exact_strict": 1.0, "exact_flexible": 1.0,
    "exact_boxed": 1.0, "exact_formula": 1.0, "math_verify": 1.0, "trouble": {}, "groups": [], "ended": 1.0,
    "n": 256, "c": 3, "solved": 1.0, "score": 0.5, "unique": 9, "unique_passed": 2, "unique_failed": 7,
    "samples": [{"passed": True, "reason": ""}], "bits": 9.0, "net_bits": 8.0, "digits": 0.5,
}  # fmt: skip
TEXT = {"nll": 12.0, "tokens": 6, "bytes": 20, "words": 4}
DIVERGENCE = {"forward_kl": 0.3, "reverse_kl": 0.4, "tokens": 6}


def made(task) -> list[dict]:
    fields = RECORD | (TEXT if task.name.endswith("_nll") else {})
    fields |= DIVERGENCE if task.name.endswith("_kl") else {}
    return [fields | {"id": f"law/{i}", "cluster": str(i)} for i in range(3)]


def results(folder, name):
    file = RecordFile(folder / f"{name}.jsonl", {}, {}, made(TASKS[name]))
    return {name: Result.of(TASKS[name], file)}


@pytest.mark.parametrize("name", TASKS)
def test_every_metric_of_every_task_is_in_results_json(tmp_path, name):
    before, after = (results(tmp_path / when, name) for when in ("before", "after"))
    facts = {"provenance": {"base": {"dequantised_from": None, "source": "x"}}}
    results_json.save(report(before, after), facts, tmp_path)
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    declared = [metric.name for metric in (*TASKS[name].metrics, *TASKS[name].method.metrics)]
    assert len(declared) == len(set(declared)) > 1
    for metric in declared:
        variants = [
            row["variant"] for row in rows if (row["task"], row["metric"]) == (name, metric)
        ]
        assert variants == ["before", "after", "change"], metric
    results_json.save_results(before, facts, tmp_path)
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert [row["metric"] for row in rows if row["variant"] == "before"] == list(
        before[name].metrics
    )


@pytest.mark.parametrize("name", TASKS)
def test_what_a_kind_of_task_must_declare(name):
    """Continuous scores of choices, diversity of samples, bounds of answers in an asked form."""
    task = TASKS[name]
    declared = {metric.name: metric for metric in task.metrics}
    by_choice = isinstance(task.method, Likelihood) and "acc" in declared
    if by_choice and not name.startswith("lab_"):  # whose values are chosen among all tokens
        continuous = {"bits_per_byte", "gold_logprob", "gold_logprob_norm"}
        assert continuous < declared.keys() and callable(declared["acc"].chance)
        assert not any(declared[name].percent for name in continuous)
    if isinstance(task.method, Execute):
        diversity = ("unique", "unique_passed", "unique_failed")
        assert {declared[name].section for name in diversity} == {"diversity"}
    if isinstance(task.method, Execute | Generate) and "format_compliance" in declared:
        bounds = {"accuracy_given_valid_format", "accuracy_missing_wrong", "accuracy_missing_right"}
        assert bounds < declared.keys()


def test_groups_are_reported_in_the_order_of_their_names():
    task = TASKS["source_test"]
    groups = (["level_2", "x"], ["level_1", "x"], ["level_2", "x"])
    answers = [
        record | {"groups": of_item} for record, of_item in zip(made(task), groups, strict=True)
    ]
    found = task.measure(answers)
    assert list(found)[:4] == [
        "exact_match",
        "exact_match_level_1",
        "exact_match_level_2",
        "format_compliance",
    ]
    assert [found[name].estimate.n for name in list(found)[:3]] == [3, 1, 2], "x is all of them"
    assert found["exact_match_level_2"].metric.label == "  level 2, two steps"


def test_a_metric_without_a_value_anywhere_is_left_out():
    answers = [record | {"strict": "[invalid]"} for record in made(TASKS["gsm8k"])]
    found = TASKS["gsm8k"].measure(answers)
    assert (
        "accuracy_given_valid_format" not in found and found["format_compliance"].estimate.mean == 0
    )


def test_results_travel_between_processes():
    for task in TASKS.values():
        found = task.measure(made(task))
        assert pickle.loads(pickle.dumps(found)) == found


def test_a_mean_over_groups_weighs_them_alike():
    accuracies = [{"acc": float(i == 0), "id": f"{'a' if i < 1 else 'b'}/{i}"} for i in range(4)]
    answers = [dict(made(TASKS["mmlu"])[0], **each, cluster=each["id"]) for each in accuracies]
    found = TASKS["mmlu"].measure(answers)
    assert (found["acc"].estimate.mean, found["acc_subject_mean"].estimate.mean) == pytest.approx(
        (0.25, 0.5)
    )
    assert found["acc_subject_mean"].without({"b/1", "b/2"}).estimate.mean == pytest.approx(0.5)


def test_the_page_on_evaluation_names_every_task():
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    assert [name for name in TASKS if f"`{name}`" not in page] == []


def test_the_task_on_the_page_works():
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    code = next(part for part in page.split("```python\n") if "CAPITALS = Task(" in part).split(
        "```"
    )[0]
    names: dict = {"__name__": __name__}
    exec(compile(code, "docs/evaluation.md", "exec", dont_inherit=True), names)
    task = names["CAPITALS"]
    answers = [task.method.record(item, " Paris.") | {"ended": 1.0} for item in task.items(None)]
    assert task.measure(answers)["exact_match"].estimate.mean == 0.5
