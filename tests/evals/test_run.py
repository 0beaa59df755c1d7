"""Evaluations that are interrupted, resumed, repeated and refused."""

import dataclasses
import json
import logging
import math
import re
import threading

import numpy as np
import pytest

from lfl_jax import notices
from lfl_jax.data.examples import Example
from lfl_jax.errors import UserError
from lfl_jax.evals import records, stats
from lfl_jax.evals.run import Evaluation, pick
from lfl_jax.evals.settings import Settings
from lfl_jax.evals.tasks import find
from lfl_jax.text.stops import truncate_at_stop

SETTINGS = Settings(rows=2, length=64, generate_rows=3, max_new_tokens=16, window=256)
TASKS = {
    "hellaswag": 0,
    "winogrande": 3,
    "gsm8k": 8,
    "source_test": 0,
    "target_nll": 0,
    "source_nll": 0,
}


def evaluate_all(limits, scorer, inputs, folder, **options):
    """{task: its result} of {task: number of items}."""
    return {
        name: Evaluation(find(name), scorer, inputs, SETTINGS, limit).run(folder, **options)
        for name, limit in limits.items()
    }


class Interrupted(Exception):
    """Stands for a kill in the middle of an evaluation."""


@pytest.fixture
def everything(inputs):
    made = [
        Example(f"{i} and {i}?", f"It is twice {i}.\n#### {2 * i}", f"e{i}", f"t{i % 2}")
        for i in range(5)
    ]
    return dataclasses.replace(
        inputs,
        problems={"seen": made},
        target=made,
        source_text=["one two three", "four five " * 80],
    )


def limited(model, calls: int):
    """The model, until it was called this often."""
    left = [calls]

    def once(function):
        def call(*args, **kwargs):
            if not left[0]:
                raise Interrupted
            left[0] -= 1
            return function(*args, **kwargs)

        return call

    return dataclasses.replace(model, score=once(model.score), generate=once(model.generate))


def content(folder) -> dict:
    return {file.name: sorted(file.read_text().splitlines()) for file in folder.glob("*.jsonl")}


def test_results_and_records(tmp_path, toy_model, tokenizer, everything):
    seen = []
    results = evaluate_all(
        TASKS,
        toy_model,
        everything,
        tmp_path,
        progress=lambda *step: seen.append(step),
    )
    assert list(results) == list(TASKS)
    assert {name: r.items for name, r in results.items()} == {
        "hellaswag": 5,
        "winogrande": 3,
        "gsm8k": 8,
        "source_test": 5,
        "target_nll": 5,
        "source_nll": 2,
    }
    header, made = records.read(tmp_path / "winogrande.jsonl")
    assert results["winogrande"].metrics["acc"] == find("winogrande").measure(made)["acc"].estimate
    assert results["winogrande"].main.chance == 0.5
    assert header["settings"]["model"] == "toy"
    assert results["gsm8k"].settings["shots_from"] == "none"
    assert results["source_nll"].metrics["bits_per_byte"].mean > 0
    for name, result in results.items():
        assert [step for step in seen if step[0] == name] == [
            (name, i, result.plan["batches"]) for i in range(result.plan["batches"] + 1)
        ]


def test_text_is_cut_before_it_is_graded(tmp_path, toy_model, tokenizer, everything):
    Evaluation(find("gsm8k"), toy_model, everything, SETTINGS, 2).run(tmp_path)
    _, made = records.read(tmp_path / "gsm8k.jsonl")
    # "<eos> Question: 5" is gone
    assert all(r["text"].rpartition("#### ")[2].isdigit() for r in made)
    assert truncate_at_stop("a</s>b<eos>", ("Question:", "</s>", "<eos>")) == "a"


@pytest.mark.parametrize("calls", range(9))
def test_an_interrupted_evaluation_resumes_where_it_stopped(
    tmp_path, toy_model, tokenizer, everything, calls
):
    tasks = {"hellaswag": 0, "gsm8k": 0, "source_nll": 0}
    whole = evaluate_all(tasks, toy_model, everything, tmp_path / "whole")
    total = sum(result.plan["batches"] for result in whole.values())
    assert total > 9
    with pytest.raises(Interrupted):
        evaluate_all(tasks, limited(toy_model, calls), everything, tmp_path / "parts")
    for file in (tmp_path / "parts").glob("*.jsonl"):  # killed while writing a line
        file.write_text(file.read_text() + '{"id": "3", "clus')
    resumed = evaluate_all(
        tasks,
        limited(toy_model, total - calls),
        everything,
        tmp_path / "parts",
    )
    assert content(tmp_path / "parts") == content(tmp_path / "whole")
    for name in tasks:
        assert dataclasses.replace(resumed[name], records="") == dataclasses.replace(
            whole[name], records=""
        )


def test_records_are_not_read_back_for_the_means(tmp_path, toy_model, everything, monkeypatch):
    def refuse(path):
        raise AssertionError(f"{path} is read")

    monkeypatch.setattr(records, "read", refuse)
    result = Evaluation(find("gsm8k"), toy_model, everything, SETTINGS, 4).run(tmp_path)
    assert result.items == 4


def test_records_are_the_same_in_memory_and_in_the_file(tmp_path):
    """Else a resumed evaluation could have another result than an uninterrupted one."""
    file = records.RecordFile.resume(tmp_path / "new" / "task.jsonl", {"task": "x"})
    file.start({"batches": 1})
    file.append([{"id": "0", "pair": (1, 2), "ll": -math.inf, 3: "text"}])
    again = records.RecordFile.resume(file.path, {"task": "x"})
    assert (
        again.records == file.records == [{"id": "0", "pair": [1, 2], "ll": -math.inf, "3": "text"}]
    )
    assert (again.plan, again.settings) == ({"batches": 1}, {"task": "x"})


def test_finished_evaluation_is_not_run_again(tmp_path, toy_model, tokenizer, everything):
    first = evaluate_all(TASKS, toy_model, everything, tmp_path)
    seen = []
    again = evaluate_all(
        TASKS,
        limited(toy_model, 0),
        everything,
        tmp_path,
        progress=lambda *step: seen.append(step),
    )
    assert again == first
    assert not seen


def test_runs_share_finished_evaluations_of_equal_settings(tmp_path, toy_model, everything):
    shared = tmp_path / "shared"

    def run(name, model, limit=4):
        evaluation = Evaluation(find("gsm8k"), model, everything, SETTINGS, limit)
        return evaluation.run(tmp_path / name, shared=shared)

    first = run("first", toy_model)
    # A model that may not be asked anything: all of its answers are the first one's.
    second = run("second", limited(toy_model, 0))
    assert dataclasses.replace(second, records="") == dataclasses.replace(first, records="")
    assert content(tmp_path / "first") == content(tmp_path / "second")
    # Of other settings, or an interrupted one, nothing is taken.
    with pytest.raises(Interrupted):
        run("third", limited(toy_model, 0), limit=3)
    assert len(list(shared.iterdir())) == 1
    other = dataclasses.replace(toy_model, tag="another model")
    assert run("fourth", other).items == 4 and len(list(shared.iterdir())) == 2


def test_of_two_runs_at_once_one_evaluates_for_both(toy_model, everything, tmp_path):
    def run(name, model):
        evaluation = Evaluation(find("gsm8k"), model, everything, SETTINGS, 4)
        return evaluation.run(tmp_path / name, shared=tmp_path / "shared")

    second = []
    # A model that may not be asked anything: it waits for the answers of the other.
    other = threading.Thread(target=lambda: second.append(run("second", limited(toy_model, 0))))

    def generate(*arguments, **options):
        if not other.is_alive():
            other.start()
            other.join(0.3)  # it has time to ask, too
        return toy_model.generate(*arguments, **options)

    first = run("first", dataclasses.replace(toy_model, generate=generate))
    other.join(10)
    assert [result.items for result in second] == [first.items] == [4]
    assert content(tmp_path / "first") == content(tmp_path / "second")


def with_tokenizer(scorer, **changes):
    return dataclasses.replace(scorer, tokenizer=dataclasses.replace(scorer.tokenizer, **changes))


OTHER_SETTINGS = {
    "model": lambda m, i, s: (dataclasses.replace(m, tag="other"), i, s),
    "tokenizer": lambda m, i, s: (
        with_tokenizer(m, encode=lambda text: m.tokenizer.encode(text)[::-1]), i, s
    ),
    "shots": lambda m, i, s: (m, dataclasses.replace(i, shots=1), s),
    "documents": lambda m, i, s: (
        m, dataclasses.replace(i, docs=lambda name: i.docs(name)[::-1]), s
    ),
    "max_new_tokens": lambda m, i, s: (m, i, dataclasses.replace(s, max_new_tokens=17)),
    "generate_rows": lambda m, i, s: (m, i, dataclasses.replace(s, generate_rows=2)),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER_SETTINGS)
def test_other_settings_start_again(tmp_path, toy_model, everything, name, caplog):
    Evaluation(find("gsm8k"), toy_model, everything, SETTINGS, 3).run(tmp_path)
    before = (tmp_path / "gsm8k.jsonl").read_text()
    model, inputs, settings = OTHER_SETTINGS[name](toy_model, everything, SETTINGS)
    with pytest.raises(Interrupted):
        Evaluation(find("gsm8k"), limited(model, 0), inputs, settings, 3).run(tmp_path)
    assert (tmp_path / "gsm8k.old.jsonl").read_text() == before
    assert any(
        "other settings" in message and "gsm8k.old.jsonl" in message for message in caplog.messages
    )


def test_a_limit_is_a_setting_too(tmp_path, toy_model, tokenizer, everything):
    for limit in (3, 4, 0):
        assert Evaluation(find("gsm8k"), toy_model, everything, SETTINGS, limit).run(
            tmp_path
        ).items == (limit or 16)


def test_a_damaged_file_starts_again(tmp_path, toy_model, tokenizer, everything, caplog):
    (tmp_path / "gsm8k.jsonl").write_text("not json\n")
    with caplog.at_level(logging.WARNING):
        assert (
            Evaluation(find("gsm8k"), toy_model, everything, SETTINGS, 2).run(tmp_path).items == 2
        )
    assert caplog.messages


def test_same_model_twice_has_forgotten_exactly_nothing(tmp_path, toy_model, tokenizer, everything):
    made = []
    for tag in ("base", "identity"):
        model = dataclasses.replace(toy_model, tag=tag)
        Evaluation(find("hellaswag"), model, everything, SETTINGS).run(tmp_path / tag)
        made.append(find("hellaswag").measure(records.read(tmp_path / tag / "hellaswag.jsonl")[1]))
    found = stats.difference(*(measured["gold_logprob"].column for measured in made))
    assert (found.mean, found.se) == (0.0, 0.0)


def test_generated_ids_are_those_of_the_whole_set(tmp_path, toy_model, tokenizer, everything):
    seen = []

    def generate(prompts, *, max_new_tokens, stop, example_ids):
        seen.extend(example_ids)
        assert stop == ("Question:", "</s>", "<|im_end|>", "<eos>")
        return ["#### 1"] * len(prompts)

    model, spread = (
        dataclasses.replace(toy_model, generate=generate),
        dataclasses.replace(SETTINGS, pick="spread"),
    )
    Evaluation(find("gsm8k"), model, everything, spread, 4).run(tmp_path)
    assert sorted(seen) == [2, 6, 10, 14]


def test_who_ended_a_text_is_recorded(tmp_path, toy_model, tokenizer, everything):
    """The model (EOS before a stop text), a stop text, or neither."""
    texts = ["#### 1<eos>", "#### 1 Question: <eos>", "#### 1", "#### 1<eos> Question:"]

    def generate(prompts, *, example_ids, **kwargs):
        return [texts[i % 4] for i in example_ids]

    model = dataclasses.replace(toy_model, generate=generate)
    result = Evaluation(find("gsm8k"), model, everything, SETTINGS, 4).run(tmp_path)
    ended = {record["id"]: record["ended"] for record in records.read(tmp_path / "gsm8k.jsonl")[1]}
    assert (
        ended == {"0": 1.0, "1": 0.0, "2": 0.0, "3": 1.0}
        and result.metrics["emitted_eos"].mean == 0.5
    )
    assert result.metrics["format_compliance"].mean == 1.0


def test_long_prompts_lose_their_beginning_with_a_warning(
    tmp_path, toy_model, tokenizer, everything
):
    seen = []

    def generate(prompts, **kwargs):
        seen.extend(prompts)
        return [""] * len(prompts)

    model, narrow = (
        dataclasses.replace(toy_model, generate=generate),
        dataclasses.replace(SETTINGS, window=24),
    )
    with notices.collected() as warnings:
        result = Evaluation(find("gsm8k"), model, everything, narrow).run(tmp_path)
    assert re.fullmatch(
        r"gsm8k: \d+ of \d+ prompts lost their beginning: longer than the model's 24 .*",
        warnings[0],
    )
    assert max(map(len, seen)) == 8
    ending = tokenizer.encode("\nAnswer:")
    assert all(prompt[-len(ending) :] == ending for prompt in seen)
    assert result.plan["truncated"] > 0
    with pytest.raises(UserError, match="max_new_tokens=24 leaves no room"):
        Evaluation(
            find("gsm8k"), model, everything, dataclasses.replace(narrow, max_new_tokens=24)
        ).run(
            tmp_path,
        )


def test_other_processes_follow_the_writer(tmp_path, toy_model, tokenizer, everything):
    """A process that does not write runs the batches the writer's mask leaves, and returns the
    writer's results."""
    sent, calls = [], []
    written = tmp_path / "writer"
    wrote = Evaluation(find("hellaswag"), toy_model, everything, SETTINGS).run(
        written,
        agree=lambda x: sent.append(x) or x,
    )
    (described, done), result = sent

    def score(rows):
        calls.append(set(np.unique(rows["example_ids"])))
        return toy_model.score(rows)

    model = dataclasses.replace(toy_model, score=score)
    values = iter([(described, np.arange(len(done)) != 4), result])
    follower = {"writer": False, "agree": lambda value: next(values)}
    here, task = tmp_path / "follower", find("hellaswag")
    assert Evaluation(task, model, everything, SETTINGS).run(here, **follower) == wrote
    assert len(calls) == 1
    assert 4 in calls[0]
    assert not here.exists()
    other = iter([(described | {"content": "of another version of the data"}, done)])
    with pytest.raises(
        UserError, match="hellaswag: content of this process is not what process 0 has"
    ):
        Evaluation(task, model, everything, SETTINGS).run(
            here,
            writer=False,
            agree=lambda _: next(other),
        )


def test_mistakes_are_named(tmp_path, toy_model, tokenizer, everything, inputs):
    with pytest.raises(
        UserError, match=r"unknown evaluation 'sums'; there are: source_test, source_test_plain"
    ):
        Evaluation(find("sums"), toy_model, everything, SETTINGS).run(tmp_path)
    with pytest.raises(UserError, match="source_test has no items"):
        Evaluation(find("source_test"), toy_model, inputs, SETTINGS).run(tmp_path)
    twice = dataclasses.replace(everything, target=[*everything.target, everything.target[0]])
    with pytest.raises(UserError, match="two items have the same id"):
        Evaluation(find("target_nll"), toy_model, twice, SETTINGS).run(tmp_path)
    with pytest.raises(UserError, match="'first' or 'spread', not 'last'"):
        pick(10, 3, "last")


def test_a_limit_keeps_the_balance_of_groups(tmp_path, toy_model, tokenizer, everything):
    """Every second problem would be of one group: spread picks must not see only that one."""
    made = [Example(f"{i}?", f"#### {i}", f"e{i}", "t") for i in range(32)]
    inputs = dataclasses.replace(everything, problems={"seen": made, "unseen": made})
    spread = dataclasses.replace(SETTINGS, pick="spread")
    metrics = Evaluation(find("source_test"), toy_model, inputs, spread, 16).run(tmp_path).metrics
    assert metrics["exact_match_seen"].n == metrics["exact_match_unseen"].n == 8


def test_headers_tell_how_much_was_saved(tmp_path, toy_model, tokenizer, everything):
    Evaluation(find("hellaswag"), toy_model, everything, SETTINGS).run(tmp_path)
    header = json.loads((tmp_path / "hellaswag.jsonl").read_text().splitlines()[0])
    assert header["plan"]["tokens"] < header["plan"]["naive_tokens"]
