"""The browser of items that flipped: which, in which order, what of them, and how much."""

import dataclasses
import json

import numpy as np
import pytest
from planted_study import ITEMS, SEEDS, answer, write_study

from lfl_jax.evals import records as record_files
from lfl_jax.evals.task import Inputs
from lfl_jax.evals.tasks import TASKS
from lfl_jax.report.study import items as browser
from lfl_jax.studies import flipped
from lfl_jax.studies.records import run_transcripts
from lfl_jax.studies.records.transcripts import Choice, Transcript

HOSTILE = "<script>alert(1)</script> \u202e\x1b[31m"


@pytest.fixture(scope="module")
def findings(tmp_path_factory):
    return answer(write_study(tmp_path_factory.mktemp("study") / "s"))


def group(findings, most=8):
    groups = list(flipped.groups(findings, most))
    assert [(g.change.measure.task, g.change.method) for g in groups] == [
        (task, method) for task in ("target", "source") for method in ("full", "lora")
    ]
    return groups[2]


def test_items_of_most_seeds_come_first(findings):
    lost = group(findings, most=ITEMS).lost
    grid = findings.grids["full"]
    lr = grid.cells[grid.most_learned].lr
    tuned = [run for run in findings.runs if (run.method, run.lr) == ("full", lr)]
    after = np.array([run.scores.tasks["source"]["score"].column.values() for run in tuned])
    before = np.array(findings.base.tasks["source"]["score"].column.values())
    expected = {f"i{i}": int(n) for i, n in enumerate((after < before).sum(axis=0)) if n}
    assert {item.item: len(item.seeds) for item in lost} == expected
    counts = [len(item.seeds) for item in lost]
    assert counts == sorted(counts, reverse=True) and len(set(counts)) > 1


def test_their_number_is_bounded_and_said(findings):
    few, all_of_them = group(findings, most=3), group(findings, most=ITEMS)
    assert few.lost == all_of_them.lost[:3] and few.lost_count == len(all_of_them.lost) > 3
    views = browser.view(findings)
    assert f"{few.lost_count} of {ITEMS} items lost" in views[4].title
    assert views[4].left_out == few.lost_count - browser.MOST_ITEMS


def with_texts(findings, length=10):
    """The same findings, of models whose records have texts."""
    words = Transcript(f"Who? {HOSTILE}", "right", HOSTILE + "x" * length)
    said = {f"i{i}": words for i in range(ITEMS)}
    runs = [
        dataclasses.replace(
            run, scores=dataclasses.replace(run.scores, transcripts=lambda task: said)
        )
        for run in findings.runs
    ]
    base = dataclasses.replace(findings.base, transcripts=lambda task: said)
    return dataclasses.replace(findings, base=base, runs=tuple(runs))


def test_what_a_model_wrote_is_text(findings, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra study)")
    from lfl_jax.report.study import page

    page.write(with_texts(findings), page.About("t", "c"), tmp_path)
    written = (tmp_path / "index.html").read_text()
    assert "&lt;script&gt;alert(1)" in written and "<script" not in written
    # Neither what turns the reading direction nor what a terminal obeys.
    assert "\\u202e\\x1b[31m" in written and "\u202e" not in written and "\x1b" not in written
    assert f"of {SEEDS} seeds; the answer of seed" in written


def test_long_answers_are_cut_and_many_of_them_too(findings, monkeypatch):
    views = browser.view(with_texts(findings, length=10_000))
    longest = max(item.size for group in views for item in group.views)
    assert longest < 2 * browser.MOST_TEXT + 200
    assert views[4].views[0].before.endswith("[…]")

    monkeypatch.setattr(browser, "MOST_TEXT_OF_ALL", 10_000)
    views = browser.view(with_texts(findings, length=10_000))
    assert sum(item.size for group in views for item in group.views) <= 10_000
    assert views[-1].views == () and views[-1].left_out > 0


def test_records_without_texts_say_so(findings):
    assert browser.view(findings)[4].views[0].is_empty


def hellaswag(count):
    return [
        {"activity_label": "Roofing", "ctx_a": f"Man {i}.", "ctx_b": "he", "source_id": f"v{i}"}
        | {"endings": [f"falls {i}", "sings"], "label": "1"}
        for i in range(count)
    ]


def write_records(folder, task, records, items):
    folder.mkdir(parents=True, exist_ok=True)
    content = record_files.digest([dataclasses.asdict(item) for item in items])
    header = {"settings": {"items": len(records), "content": content}}
    lines = "".join(f"{json.dumps(line)}\n" for line in [header, *records])
    (folder / f"{task}.jsonl").write_text(lines)


def test_questions_are_those_that_the_records_were_made_of(tmp_path):
    inputs = Inputs(docs=lambda name: hellaswag(3))
    # Two of three, in another order, as a limit and batches leave them.
    items = [TASKS["hellaswag"].items(inputs)[i] for i in (0, 2)]
    records = [{"id": i, "ll": [-3.5, -2.0], "gold": 1} for i in ("2", "0")]
    write_records(tmp_path, "hellaswag", records, items)

    asked = run_transcripts.with_questions(tmp_path, lambda: inputs, "hellaswag")
    assert list(asked) == ["0", "2"] and asked["2"].gold == 1
    assert asked["2"].question == "Roofing: Man 2. He"
    assert asked["2"].choices == (Choice(-3.5, " falls 2"), Choice(-2.0, " sings"))

    # Other data than that of the records: their questions are not known, and none are invented.
    other = Inputs(docs=lambda name: hellaswag(2)[::-1] + hellaswag(3)[1:])
    unknown = run_transcripts.with_questions(tmp_path, lambda: other, "hellaswag")
    assert unknown["2"] == Transcript(choices=(Choice(-3.5), Choice(-2.0)), gold=1)
    missing = run_transcripts.with_questions(tmp_path, lambda: Inputs(docs=None), "hellaswag")
    assert missing == unknown


def test_choices_that_stand_in_the_sentence_are_whole(tmp_path):
    docs = [{"sentence": "Ann saw _ run.", "option1": "Bo", "option2": "Di", "answer": "2"}]
    inputs = Inputs(docs=lambda name: docs)
    records = [{"id": "0", "ll": [-3.5, -2.0], "gold": 1}]
    write_records(tmp_path, "winogrande", records, TASKS["winogrande"].items(inputs))
    asked = run_transcripts.with_questions(tmp_path, lambda: inputs, "winogrande")["0"]
    assert asked.question == ""
    assert [choice.text for choice in asked.choices] == ["Ann saw Bo run.", "Ann saw Di run."]


def test_generated_answers_have_their_question_and_the_right_one(tmp_path):
    docs = [{"question": "1 + 1?", "answer": "It is 2.\n#### 2"}]
    inputs = Inputs(docs=lambda name: docs)
    records = [{"id": "0", "text": " 3\n#### 3", "gold": "2"}]
    write_records(tmp_path, "gsm8k", records, TASKS["gsm8k"].items(inputs))
    asked = run_transcripts.with_questions(tmp_path, lambda: inputs, "gsm8k")["0"]
    assert asked == Transcript("Question: 1 + 1?\nAnswer:", "2", " 3\n#### 3")
