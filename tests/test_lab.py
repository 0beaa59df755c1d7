"""The lab from start to end: its config, its base trained once and cached, runs that start from it."""

import dataclasses
import json
import threading
import types

import pytest
from lfl_jax.configs import lab

import lfl_jax
from lfl_jax import lab_base
from lfl_jax.config import Config
from lfl_jax.core import spec
from lfl_jax.data.row_estimate import estimate_rows
from lfl_jax.data.sources import open_source
from lfl_jax.data.tokenized import TokenizedSource
from lfl_jax.errors import UserError
from lfl_jax.evals import inputs
from lfl_jax.models import llama
from lfl_jax.models.presets import LAB
from lfl_jax.run_setup import base_model, lab_folder


def config(argument, **changes):
    c = lab.get_config(argument)
    c.log.tensorboard = False
    for name, value in changes.items():
        section, field = name.split("__")
        c[section][field] = value
    return Config.from_dict(c)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LFL_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("argument", "source", "kind", "name"),
    [
        ("", "lab_ift", "lora", "lab-1m"),
        ("full,3m", "lab_ift", "none", "lab-3m"),
        ("cpt,r=4", "lab_cpt", "lora", "lab-1m"),
        ("cpt,full", "lab_cpt", "none", "lab-1m"),
        ("full_linear", "lab_ift", "none", "lab-1m"),
        ("pretrain,0.3m", "lab_source", "none", "lab-0.3m"),
        ("smoke,dora", "lab_ift", "dora", "lab-0.3m"),
    ],
)
def test_every_argument_gives_a_valid_config(argument, source, kind, name):
    c = config(argument)
    assert (c.data.source, c.adapter.kind, c.model.name) == (source, kind, name)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("pretrian", "unknown argument pretrian of configs/lab.py"),
        ("cpt,pretrain", "contradict each other: both are what is trained"),
        ("1m,3m", "contradict each other: both are the size"),
        ("pretrain,lora", "pretrain trains every weight"),
        ("pretrain,full_linear", "pretrain trains every weight: leave out full_linear"),
    ],
)
def test_arguments_that_are_unknown_or_contradict_each_other(argument, message):
    with pytest.raises(ValueError, match=message):
        lab.get_config(argument)


def test_sizes_are_what_their_names_say():
    counts = {name: spec.count(llama.specs(cfg)) for name, cfg in LAB.items()}
    assert counts["lab-1m"] == 911_744
    for name, count in counts.items():
        assert count == pytest.approx(1e6 * float(name[4:-1]), rel=0.1), name


def test_all_sizes_have_a_row_for_every_word():
    assert {cfg.vocab_size for cfg in LAB.values()} == {lab_folder.tokenizer().vocab_size}


def test_the_new_facts_are_trained_a_dozen_times():
    """After 100 passes they are recalled whatever the method and its rate."""
    for words in ("", "full", "r=4"):
        c = config(words)
        source = open_source(c.data, "train", c.seed.data)
        tokenized = TokenizedSource(source, lab_folder.tokenizer(), c.data)
        rows = estimate_rows(tokenized, seed=c.seed.data, epochs=1.0).stats.rows
        assert c.train.steps * c.train.batch / rows == pytest.approx(13, abs=2)


def test_general_text_is_the_worlds_own():
    texts = [inputs.from_config(config("smoke", data__world=w)).source_text for w in (0, 0, 1)]
    assert len(texts[0]) == 512 and texts[0] is texts[1] and texts[0] != texts[2]


def test_a_base_is_of_its_size_and_world_and_of_nothing_else():
    def place(argument, **changes):
        return lab_folder.place(lab_folder.pretraining(config(argument, **changes))).name

    base = place("")
    assert base == place("cpt,full,lr=1") == place("", seed__init=1, eval__limit=3)
    assert len({base, place("3m"), place("", data__world=1)}) == 3


def test_a_base_that_is_not_there_is_said():
    with pytest.raises(UserError, match=r"lab-1m of world 0 is not trained yet: .*configs/lab.py"):
        base_model.tokenizer(config(""))


def tiny(monkeypatch, steps=2):
    """Bases of a few steps, as what a run asks for."""
    found = lab_folder.pretraining

    def few_steps(asked):
        wanted = found(asked)
        length = dataclasses.replace(wanted.train, steps=steps, batch=4)
        tasks = {"tasks": ("lab_source_facts",), "every_tasks": ()}
        limit = dataclasses.replace(wanted.eval, limit=8, **tasks)
        size = dataclasses.replace(wanted.data, size=200)
        return dataclasses.replace(wanted, train=length, eval=limit, data=size)

    monkeypatch.setattr(lab_folder, "pretraining", few_steps)


@pytest.mark.slow
def test_a_run_trains_its_base_once_and_starts_from_it(tmp_path, monkeypatch):
    """Its scores before training are those of the base at the end of its own."""
    tiny(monkeypatch)
    tasks = ("lab_new_facts", "lab_rule", "lab_source_facts")
    c = config("0.3m,steps=2", eval__limit=8, eval__tasks=tasks, eval__every_tasks=())
    run = lfl_jax.run(c, tmp_path / "run", quiet=True)

    monkeypatch.setattr(lab_base, "_train", None)
    base = lab_base.path(c)
    assert sorted(file.name for file in base.parent.iterdir()) == [base.name, f"{base.name}.lock"]
    scores = json.loads((base / lab_base.RECORD).read_text())["scores"]
    rows = {(r["task"], r["metric"], r["variant"]): r["estimate"] for r in run.to_rows()}
    before = rows["lab_source_facts", "gold_logprob", "before"]
    assert before == pytest.approx(scores["lab_source_facts/gold_logprob"], abs=1e-5)
    assert {("lab_rule", "acc", "change"), ("lab_new_facts", "acc", "after")} <= set(rows)


def test_of_two_that_ask_at_once_one_trains(monkeypatch):
    """flock is between open files, so that two threads stand for two processes."""
    trained = []

    def train(training, folder, quiet):
        trained.append(folder)
        folder.mkdir()

    monkeypatch.setattr(lab_base, "_train", train)
    threads = [threading.Thread(target=lab_base.path, args=(config(""),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert len(trained) == 1


def test_stopped_while_its_base_trains_a_command_is_interrupted(monkeypatch):
    stopped = types.SimpleNamespace(finished=False)
    monkeypatch.setattr(lab_base.train, "run", lambda request: stopped)
    with pytest.raises(KeyboardInterrupt):
        lab_base.path(config(""), quiet=True)


@pytest.mark.slow
def test_the_base_knows_its_world_and_finetuning_learns_and_forgets(tmp_path, monkeypatch):
    """The numbers of configs/lab.py: minutes, on two cores."""
    base = json.loads((lab_base.path(config(""), quiet=True) / lab_base.RECORD).read_text())
    assert base["scores"]["lab_source_facts/acc"] > 0.98
    scores = {}
    for words in ("lr=2e-3", "lr=6e-3", "full,lr=3e-4", "full,lr=7e-4"):
        run = lfl_jax.run(config(words), tmp_path / words, quiet=True)
        scores[words] = {name: result.main.estimate.mean for name, result in run.after.items()}
        print(words, scores[words])
    # Where an arm recalls nothing or everything, a study could not match arms by what they learned.
    assert all(0.1 < one["lab_new_facts"] < 0.98 for one in scores.values())
    for low, high in (("lr=2e-3", "lr=6e-3"), ("full,lr=3e-4", "full,lr=7e-4")):
        assert scores[low]["lab_new_facts"] < scores[high]["lab_new_facts"]
        assert scores[low]["lab_source_facts"] > scores[high]["lab_source_facts"] + 0.05
    assert scores["full,lr=7e-4"]["lab_rule"] > 0.3
