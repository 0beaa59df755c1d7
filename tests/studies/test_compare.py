"""Comparisons of anybody's records: by hand, of lm-evaluation-harness's logs, of run directories."""

import json
import math
import resource
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from lfl_jax import compare
from lfl_jax.errors import UserError
from lfl_jax.studies import records
from lfl_jax.studies.comparison import Verdict
from lfl_jax.studies.comparison import compare as rows_of

DOCUMENTS = 200


def write_csv(path, rows, header="run,item,score,cluster"):
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return str(path)


def numbers(seed, count=300, shift=0.0, tasks=1):
    """Rows of two runs whose scores are correlated over items."""
    rng = np.random.default_rng(seed)
    rows = []
    for task in range(tasks):
        base = rng.normal(size=count)
        tuned = base + shift + rng.normal(0, 0.2, count)
        for run, scores in (("base", base), ("tuned", tuned)):
            rows += [(run, f"i{i}", x, f"i{i}", f"t{task}") for i, x in enumerate(scores)]
    return rows


TASKED = "run,item,score,cluster,task"


def test_a_change_is_the_paired_t_interval(tmp_path):
    rows = numbers(0, shift=0.1)
    base, tuned = records.read(write_csv(tmp_path / "x.csv", rows, TASKED))
    (row,) = rows_of(base, tuned, margin=0.02)
    scores = [np.array([r[2] for r in rows if r[0] == run]) for run in ("base", "tuned")]
    expected = stats.ttest_rel(scores[1], scores[0])
    limits = expected.confidence_interval()
    assert (row.change.low, row.change.high) == pytest.approx((limits.low, limits.high))
    assert row.p == pytest.approx(expected.pvalue)
    assert row.verdict is Verdict.BETTER


def test_right_and_wrong_are_counted_as_flips(tmp_path):
    scores = {"base": (1, 0, 1, 0, 0), "tuned": (1, 1, 0, 1, 1)}
    rows = [(run, i, x, i) for run, xs in scores.items() for i, x in enumerate(xs)]
    (row,) = rows_of(*records.read(write_csv(tmp_path / "x.csv", rows)), margin=0.02)
    assert (row.flips.lost, row.flips.gained) == (1, 3)
    assert row.change.mean == pytest.approx(0.4)
    assert row.verdict is Verdict.UNDECIDED


@pytest.mark.parametrize(
    ("shift", "margin", "verdict"),
    [(0.0, 0.1, Verdict.EQUIVALENT), (-0.5, 0.1, Verdict.WORSE), (0.0, 1e-4, Verdict.UNDECIDED)],
)
def test_verdicts(tmp_path, shift, margin, verdict):
    place = write_csv(tmp_path / "x.csv", numbers(1, shift=shift), TASKED)
    (row,) = rows_of(*records.read(place), margin=margin)
    assert row.verdict is verdict


def test_equal_scores_have_no_error_and_are_equivalent(tmp_path):
    rows = numbers(2)
    same = [("base", *row[1:]) for row in rows if row[0] == "base"]
    same += [("tuned", *row[1:]) for row in same]
    (row,) = rows_of(*records.read(write_csv(tmp_path / "x.csv", same, TASKED)), margin=0.01)
    assert (row.change.mean, row.change.low, row.change.high) == (0.0, 0.0, 0.0)
    assert (row.verdict, row.p) == (Verdict.EQUIVALENT, 1.0)


def test_holm_counts_main_metrics_only(tmp_path):
    place = write_csv(tmp_path / "x.csv", numbers(3, tasks=4), TASKED)
    rows = rows_of(*records.read(place), margin=0.02)
    smallest = min(rows, key=lambda row: row.p)
    assert smallest.p_holm == pytest.approx(min(1.0, 4 * smallest.p))


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """Logs of two models by lm-evaluation-harness, 200 documents each, and its own results."""
    evaluator = pytest.importorskip("lm_eval.evaluator", reason="lm-eval is not installed")
    folder = tmp_path_factory.mktemp("logs")
    return folder, {name: log(evaluator, folder / name, seed) for seed, name in enumerate("ab")}


def log(evaluator, folder, seed):
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    tasks = folder.parent / "tasks"
    if not tasks.exists():
        write_tasks(tasks)
    results = evaluator.simple_evaluate(
        model=random_model(seed),
        tasks=["pets", "sums"],
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        log_samples=True,
        bootstrap_iters=2,
    )
    tracker = EvaluationTracker(output_path=str(folder))
    samples = results.pop("samples")
    tracker.save_results_aggregated(results=results, samples=samples)
    for task, lines in samples.items():
        tracker.save_results_samples(task_name=task, samples=lines)
    return results["results"]


def write_tasks(folder):
    folder.mkdir()
    documents = [{"question": f"Is {i} even?", "answer": i % 2} for i in range(DOCUMENTS)]
    data = folder / "documents.jsonl"
    data.write_text("\n".join(map(json.dumps, documents)) + "\n")
    common = f"""
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
doc_to_text: "{{{{question}}}}"
"""
    (folder / "pets.yaml").write_text(
        f"task: pets\n{common}output_type: multiple_choice\ndoc_to_target: answer\n"
        'doc_to_choice: ["yes", "no, never"]\nmetric_list:\n'
        "  - {metric: acc, aggregation: mean, higher_is_better: true}\n"
        "  - {metric: acc_norm, aggregation: mean, higher_is_better: true}\n"
    )
    (folder / "sums.yaml").write_text(
        f"task: sums\n{common}output_type: loglikelihood_rolling\ndoc_to_target: "
        '"{{question}}"\nmetric_list:\n'
        "  - {metric: word_perplexity}\n  - {metric: bits_per_byte}\n"
    )


def random_model(seed):
    from lm_eval.api.model import LM

    class Random(LM):
        def __init__(self):
            super().__init__()
            self.rng = np.random.default_rng(seed)

        def loglikelihood(self, requests, **kwargs):
            return [(-float(self.rng.exponential()) - seed, False) for _ in requests]

        def loglikelihood_rolling(self, requests, **kwargs):
            return [-float(self.rng.exponential()) - 5.0 for _ in requests]

        def generate_until(self, requests, **kwargs):
            raise NotImplementedError

    return Random()


def test_the_harness_s_means_and_errors_are_returned(logged):
    folder, theirs = logged
    for name in "ab":
        (scores,) = records.read(str(folder / name))
        for task, metric in (("pets", "acc"), ("pets", "acc_norm"), ("sums", "word_perplexity")):
            estimate = scores.tasks[task][metric].estimate
            assert estimate.mean == pytest.approx(theirs[name][task][f"{metric},none"])
            if metric != "word_perplexity":  # whose error the harness bootstraps
                expected = theirs[name][task][f"{metric}_stderr,none"]
                assert estimate.se == pytest.approx(expected)
                assert estimate.n == DOCUMENTS
        bits = scores.tasks["sums"]["bits_per_byte"].estimate.mean
        assert bits == pytest.approx(theirs[name]["sums"]["bits_per_byte,none"])


def test_the_paired_error_of_harness_logs_is_the_formula_s(logged):
    folder, _ = logged
    (a,), (b,) = records.read(str(folder / "a")), records.read(str(folder / "b"))
    row = next(row for row in rows_of(a, b, margin=0.02) if row.metric == "acc")
    first, last = (scores.tasks["pets"]["acc"].column for scores in (a, b))
    difference = np.array(last.ordered_as(first).values()) - np.array(first.values())
    assert row.change.mean == pytest.approx(difference.mean())
    assert row.change.se == pytest.approx(difference.std(ddof=1) / math.sqrt(DOCUMENTS))
    # Two choices: half of the wrong answers to both are expected to differ by chance.
    errors = (1 - row.before.mean) * (1 - row.after.mean)
    assert row.flips.by_chance == pytest.approx(DOCUMENTS * errors)


def test_a_log_has_what_was_asked_and_chosen(logged):
    (scores,) = records.read(str(logged[0] / "a"))
    asked = scores.transcripts("pets")
    assert asked.keys() == set(scores.tasks["pets"]["acc"].column.ids)
    first = next(iter(asked.values()))
    assert first.question.startswith("Is ") and first.gold in (0, 1)
    assert [choice.text for choice in first.choices] == [" yes", " no, never"]
    assert all(choice.logprob < 0 for choice in first.choices)


def edited(logged, tmp_path, change):
    """The samples of model a's pets, with a change to each."""
    (file,) = (logged[0] / "a").rglob("samples_pets_*.jsonl")
    copy = tmp_path / "edited" / file.name
    copy.parent.mkdir(exist_ok=True)
    samples = [json.loads(line) for line in file.read_text().splitlines()]
    lines = [json.dumps(changed) for changed in map(change, samples) if changed]
    copy.write_text("".join(f"{line}\n" for line in lines))
    return str(copy.parent)


REFUSED = {
    "changed prompts": (lambda s: s | {"prompt_hash": "0"}, "200 of 200 prompts differ"),
    "no metrics": (lambda s: s | {"metrics": []}, "names no metrics"),
    "no number": (lambda s: s | {"acc": None}, "acc of item 0 is null; expected a number"),
    "one item": (lambda s: s | {"doc_hash": "x"}, "200 samples of 1 items for acc"),
    "no samples": (lambda s: None, "holds no samples"),
    "other items": (lambda s: s | {"doc_hash": s["doc_hash"] + "x"}, "not of the same items"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_logs_that_cannot_be_compared_are_refused(logged, tmp_path, fault):
    change, message = REFUSED[fault]
    with pytest.raises(UserError, match=message):
        compare.main(["", str(logged[0] / "a"), edited(logged, tmp_path, change)])


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        ([("a", 1)], "run,item", "no column score"),
        ([("a", 1, 1.0), ("a", 1, 0.0)], "run,item,score", "'1' occurs more than once in run 'a'"),
        ([("a", 1, "x")], "run,item,score", "score 'x' of item '1' is no finite number"),
        ([("a", 1, "nan")], "run,item,score", "no finite number"),
        ([("a", 1, 1.0), ("b", 2, 1.0)], "run,item,score", "not of the same items"),
        ([("a", 1, 1.0)], "run,item,score", "holds one model, a; name what to compare it with"),
    ],
)
def test_a_csv_file_that_cannot_be_compared_is_refused(tmp_path, rows, header, message):
    with pytest.raises(UserError, match=message):
        compare.main(["", write_csv(tmp_path / "x.csv", rows, header)])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to compare"),
        (["/nowhere"], "no such file"),
        (["{tmp}"], "is none of: a run directory"),
        (["x", "--margin=-1"], "positive"),
        (["x", "--margn=1"], "unrecognized"),
        (["{tmp}/x.csv:c"], "has no run 'c'; there are: base, tuned"),
    ],
)
def test_mistakes_on_the_command_line(tmp_path, words, message):
    write_csv(tmp_path / "x.csv", numbers(0), TASKED)
    with pytest.raises(UserError, match=message):
        compare.main(["", *(word.format(tmp=tmp_path) for word in words)])


def test_the_table_and_the_json_file(tmp_path, capsys):
    place = write_csv(tmp_path / "x.csv", numbers(0, shift=0.1), TASKED)
    compare.main(["", f"{place}:base", f"{place}:tuned", f"--out={tmp_path}/out.json"])
    printed = capsys.readouterr().out
    assert "tuned against base" in printed and "better" in printed
    (row,) = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert row["verdict"] == "better" and row["change"]["n"] == 300


def test_it_imports_no_jax_and_answers_in_three_seconds(tmp_path):
    place = write_csv(tmp_path / "x.csv", numbers(0, count=1000, tasks=10), TASKED)
    code = (
        "import sys; from lfl_jax import compare; compare.main(sys.argv);"
        " assert not {'jax', 'torch', 'lm_eval'} & set(sys.modules)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code, place], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # It is one thread: on an idle machine these are its seconds, on a busy one it waits for others.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 3.0


def run_directory(path, scores_by_when, items=None):
    """Records of WinoGrande as a run leaves them."""
    for when, scores in scores_by_when.items():
        lines = [{"settings": {"task": "winogrande", "items": items or len(scores)}, "plan": {}}]
        for index, score in enumerate(scores):
            lines.append(
                {"id": f"q{index}", "cluster": f"twin{index // 2}", "acc": score, "gold": 0}
                | {"ll": [-8.0, -9.0], "bytes": [8, 8]}
                | {"gold_logprob": -0.3, "gold_logprob_norm": -0.6}
            )
        file = path / "evals" / when / "winogrande.jsonl"
        file.parent.mkdir(parents=True)
        file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return str(path)


def test_a_run_directory_is_its_base_and_what_it_learned(tmp_path):
    place = run_directory(tmp_path / "run", {"before": [1.0, 0.0] * 20, "after": [1.0] * 40})
    base, tuned = records.read(place)
    row = next(row for row in rows_of(base, tuned, 0.02) if row.metric == "acc")
    assert (base.name, tuned.name) == ("run:before", "run:after")
    assert (row.before.mean, row.after.mean, row.verdict) == (0.5, 1.0, Verdict.BETTER)
    assert row.change.clusters == 20
    assert [scores.name for scores in records.read(f"{place}:after")] == ["run:after"]


def test_an_interrupted_evaluation_is_not_compared(tmp_path):
    place = run_directory(tmp_path / "run", {"before": [1.0] * 4}, items=8)
    with pytest.raises(UserError, match="4 of 8 items; the evaluation was interrupted"):
        records.read(place)
