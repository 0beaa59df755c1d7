"""Evaluations by the harness: files, restarts after a kill, mistakes, no network."""

import dataclasses
import json
import subprocess
import sys

import jax
import pytest
from evals.harness.shared import SETTINGS, fetched, quiet, samples

from lfl_jax.errors import UserError
from lfl_jax.evals.harness import bridge, documents
from lfl_jax.evals.harness.answers import Answers


class Killed(Exception):
    """Stands for a kill in the middle of an evaluation."""


def limited(model, calls):
    """The model, until it was called this often; how often it was is in the list."""
    made = []

    def once(function):
        def call(*args, **kwargs):
            if len(made) == calls:
                raise Killed
            made.append(1)
            return function(*args, **kwargs)

        return call

    return dataclasses.replace(model, score=once(model.score), generate=once(model.generate)), made


def test_a_killed_evaluation_goes_on_where_it_was(tmp_path, toy_model, tokenizer, inputs):
    tasks, settings = (
        ["winogrande", "gsm8k"],
        dataclasses.replace(SETTINGS, rows=1, length=48, generate_rows=5),
    )

    def evaluate(folder, calls):
        model, made = limited(toy_model, calls)
        try:
            options = {"num_fewshot": 0, "docs": inputs.docs, "report": quiet}
            return bridge.run(model, tasks, settings, out=tmp_path / folder, **options), len(made)
        finally:
            assert len(made) <= calls

    def content(folder):
        return {task: (tmp_path / folder / f"samples_{task}.jsonl").read_text() for task in tasks}

    whole, total = evaluate("whole", 99)
    store = tmp_path / "parts" / "requests.jsonl"
    for more in (1, total - 3):  # in the middle of scoring, then of generating
        with pytest.raises(Killed):
            evaluate("parts", more)
        with store.open("a") as file:
            file.write('{"key": "half a li')
    assert not (tmp_path / "parts" / "results.json").exists()
    resumed, rest = evaluate("parts", 2)
    assert (resumed, rest) == (whole, 2) and content("parts") == content("whole")
    assert evaluate("parts", 0) == (whole, 0)


def test_groups_hold_fetched_tasks_and_ones_own(
    tmp_path, toy_model, tokenizer, suite, inputs, few_tasks
):
    (suite / "mine.yaml").write_text(json.dumps({"group": "mine", "task": ["hellaswag", "pets"]}))
    few = lambda item: inputs.docs(item)[:2] if item == "hellaswag" else fetched(item)  # noqa: E731
    options = {
        "out": tmp_path,
        "include": str(suite),
        "docs": few,
        "num_fewshot": 0,
        "report": quiet,
    }
    assert set(bridge.run(toy_model, ["mine"], SETTINGS, **options)) == {
        "hellaswag",
        "pets",
    }
    assert len(samples(tmp_path, "hellaswag")) == 2 and len(samples(tmp_path, "pets")) == 3
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["lfl_jax"]["sources"]["hellaswag"]["validation"]["item"] == "hellaswag"
    assert results["configs"]["hellaswag"]["dataset_path"] == "hellaswag"


def test_a_task_in_the_folder_comes_before_a_fetched_one(
    tmp_path, toy_model, tokenizer, suite, inputs
):
    text = (suite / "pets.yaml").read_text().replace('"task": "pets"', '"task": "hellaswag"')
    (suite / "pets.yaml").write_text(text)
    options = {"out": tmp_path, "include": str(suite), "docs": inputs.docs, "report": quiet}
    bridge.run(toy_model, ["hellaswag"], SETTINGS, **options)
    assert len(samples(tmp_path, "hellaswag")) == 3
    assert json.loads((tmp_path / "results.json").read_text())["lfl_jax"]["sources"] == {}


def test_answers_of_another_model_are_put_aside(tmp_path):
    file = tmp_path / "requests.jsonl"
    Answers(file, {"model": "a"}).add({"k": 1})
    assert Answers(file, {"model": "a"})["k"] == 1
    assert "k" not in Answers(file, {"model": "b"})
    assert (tmp_path / "requests.old.jsonl").exists()


# Mistakes


@pytest.mark.parametrize(
    ("tasks", "options", "words"),
    [
        (["hellaswga"], {}, "lm-eval has no task 'hellaswga'; near it: hellaswag"),
        (["arc_challenge", "ai2_arc"], {}, "cannot load this: Couldn't reach 'allenai/ai2_arc' on"
                                           " the Hub (Offline"),
        ([], {}, "name at least one task"),
        (["winogrande"], {}, "winogrande is not fetched: run `python -m lfl_jax.fetch winogrande`"),
        (["gsm8k"], {}, "gsm8k: its 5 examples in the prompt come from a training split that is not"
                        " in the cache:"
         " `python -m lfl_jax.fetch gsm8k-train`, num_fewshot=0, or data='hub'"),
        (["hellaswag"], {"num_fewshot": 3}, "hellaswag: its 3 examples in the prompt come from a"
                                            " training split"),
        (["hellaswag"], {"data": "internet"}, "data='internet': documents come from 'cache' or from"
                                              " 'hub'"),
        (["hellaswag"], {"include": "/nowhere"}, "include='/nowhere' is no folder"),
        (["hellaswag"], {"chat": True}, "carries no chat template"),
    ],
)  # fmt: skip
def test_mistakes_are_named(
    tmp_path, toy_model, tokenizer, few_tasks, monkeypatch, tasks, options, words
):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    with pytest.raises(UserError) as error:
        bridge.run(
            toy_model,
            tasks,
            SETTINGS,
            out=tmp_path,
            docs=fetched,
            report=quiet,
            **options,
        )
    assert words in str(error.value)
    assert len(str(error.value).splitlines()) <= 2


def test_one_process_only(tmp_path, toy_model, tokenizer, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(UserError, match="evaluated by one process"):
        bridge.run(toy_model, ["hellaswag"], SETTINGS, out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_missing_harness_is_named(tmp_path, toy_model, tokenizer, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(UserError, match=r"install the eval extra: pip install 'lfl_jax\[eval\]'"):
        bridge.run(toy_model, ["hellaswag"], SETTINGS, out=tmp_path)


def test_arc_is_the_original_again(inputs):
    """Texts as fetched, and the answer by position; labels that were numbers are letters now."""
    for doc in inputs.docs("arc-challenge"):
        gold = doc["choices"]["label"].index(doc["answerKey"])
        query = f"Question: {doc['question']}\nAnswer:"
        rendered = {
            "id": doc["id"],
            "query": query,
            "choices": doc["choices"]["text"],
            "gold": gold,
        }
        again = documents.arc_fields(rendered)
        assert (again["question"], again["choices"]["text"]) == (
            doc["question"],
            doc["choices"]["text"],
        )
        assert again["choices"]["label"].index(again["answerKey"]) == gold


def test_it_runs_without_torch_and_without_a_network(tmp_path, suite):
    """In a process of its own, where importing torch or transformers fails and so does every
    connection."""
    code = f"""
import socket, sys
class Without:
    def __init__(self, finder): self.finder = finder
    def __getattr__(self, name): return getattr(self.finder, name)
    def find_spec(self, name, *rest):
        return None if name in ("torch", "transformers") else self.finder.find_spec(name, *rest)
sys.meta_path = [Without(finder) for finder in sys.meta_path]
def refuse(*args, **kwargs): raise SystemExit("a connection was opened")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from pathlib import Path
from lfl_jax.evals.harness import bridge
from lfl_jax.evals.task import Scorer
from lfl_jax.evals.settings import Settings
from lfl_jax.text.tokenizers import byte_tokenizer
score = lambda rows: (rows["weights"] * rows["targets"], rows["targets"] > 99)
model = Scorer(
    "fake", byte_tokenizer(), score, lambda prompts, **options: ["2"] * len(prompts)
)
settings = Settings(rows=2, length=128, generate_rows=4, max_new_tokens=12, window=512)
out, include = Path({str(tmp_path)!r}), {str(suite)!r}
bridge.run(model, ["pets", "sums"], settings, out=out, include=include)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "|sums |" in done.stdout and "0.3333" in done.stdout
    assert {line.split()[0] for line in done.stderr.splitlines()} <= {"lm-eval:"}, "no chatter"
