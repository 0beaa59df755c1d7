"""What runs of one process share changes nothing of what they do, and is made once."""

import dataclasses
import pickle

import jax
import pytest
from lfl_jax.configs import math_ift

from lfl_jax import notices, train
from lfl_jax.analysis import contamination
from lfl_jax.config import Config
from lfl_jax.core.sharding import make_rules
from lfl_jax.evals.task import Inputs
from lfl_jax.evals.tasks import TASKS
from lfl_jax.run_setup import base_model
from lfl_jax.run_setup.shared import Shared


def test_a_part_is_made_once_for_its_key_and_those_used_last_stay():
    shared, made = Shared(), []

    def part(key, kind="data", **options):
        return shared.part(kind, key, lambda: made.append((kind, key)) or len(made), **options)

    assert [part("a"), part("a"), part("b"), part("a", kind="base")] == [1, 1, 2, 3]
    # "a" was used after "b", which goes.
    assert (part("a", most=2), part("c", most=2), part("a", most=2)) == (1, 4, 1)
    assert part("b") == 5
    shared.give_away("data", "b")
    shared.give_away("data", "never made")
    assert part("b") == 6
    # Another process makes its own.
    assert pickle.loads(pickle.dumps(shared)).part("data", "a", lambda: "new") == "new"


def test_before_another_is_made_the_old_one_is_gone():
    shared, alive = Shared(), []
    shared.part("base", 1, lambda: "first", most=1)
    shared.part("base", 2, lambda: alive.extend(shared._parts["base"]), most=1)
    assert alive == []


def test_a_warning_is_every_run_s_that_uses_the_part():
    shared = Shared()

    def doubtful():
        notices.warn("half of the rows are empty")
        return 1

    for _ in range(2):
        with notices.collected() as texts:
            shared.part("data", "a", doubtful)
        assert texts == ["half of the rows are empty"]


def test_items_are_made_once_for_inputs_and_anew_for_others():
    read = []
    documents = [{"activity_label": "a", "ctx_a": "b", "ctx_b": "c", "endings": ["d"] * 4}]

    def docs(name):
        read.append(name)
        return [{**doc, "source_id": "s", "label": "0"} for doc in documents]

    task, inputs = TASKS["hellaswag"], Inputs(docs=docs)
    assert inputs.items_of(task) is inputs.items_of(task) and read == ["hellaswag"]
    # What a copy changes may change its items.
    dataclasses.replace(inputs, shots=2).items_of(task)
    other = dataclasses.replace(task, items=lambda inputs: ["another"])
    assert inputs.items_of(other) == ["another"] and len(read) == 2


def configured(words, seed, **optim):
    c = math_ift.get_config(f"smoke,{words}")
    c.train.steps, c.checkpoint.every, c.checkpoint.best = 2, 0, ""
    c.data.size, c.data.seq_len, c.data.seed, c.seed.data = 24, 256, 0, seed
    c.eval.tasks, c.eval.every_tasks = ("target_nll:4", "target_kl:4"), ()
    c.eval.seq_len, c.log.tensorboard = 256, False
    c.optim.update(optim)
    return Config.from_dict(c)


RUNS = {
    "first": configured("lora,r=2", 1),
    "second": configured("lora,r=2", 2, lr=1e-2),
    # It trains the base's own arrays, which it takes.
    "full": configured("full", 1),
    "third": configured("lora,r=2", 2, lr=1e-2),
}


def records(folder):
    files = sorted(folder.glob("evals/*/*.jsonl"))
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


@pytest.fixture
def counted(monkeypatch):
    """How often a base is read, and a source searched for evaluation items."""
    counts = {"read": 0, "searched": 0}

    def counting(module, function, name):
        do = getattr(module, function)

        def called(*arguments, **options):
            counts[name] += 1
            return do(*arguments, **options)

        monkeypatch.setattr(module, function, called)

    counting(base_model, "_read", "read")
    counting(contamination, "find_overlaps", "searched")
    return counts


def test_runs_that_share_are_the_runs_that_do_not(tmp_path, counted):
    shared, reads = Shared(), []
    for name, config in RUNS.items():
        folder = tmp_path / name
        outcome = train.run(train.Run(config, folder, quiet=True, shared=shared))
        assert outcome.finished
        reads.append(counted["read"])
    # The full run's base for its divergence is read as well; after it nothing is left to share.
    assert reads == [1, 1, 2, 3] and counted["searched"] == 1
    for name in ("second", "full"):
        alone = tmp_path / f"{name}-alone"
        train.run(train.Run(RUNS[name], alone, quiet=True))
        assert records(alone) == records(tmp_path / name), name
        report = (alone / contamination.FILE).read_bytes()
        assert report == (tmp_path / name / contamination.FILE).read_bytes()
    assert records(tmp_path / "third") == records(tmp_path / "second")


def test_another_base_is_read():
    rules, shared = make_rules(devices=jax.devices()[:1]), Shared()
    lora, full = RUNS["first"], RUNS["full"]
    base = base_model.load(lora, rules, shared)
    assert base_model.load(RUNS["second"], rules, shared).model is base.model
    # Of what it computes in, only the numbers are shared.
    dropout = dataclasses.replace(lora.model, attention_dropout=0.1)
    other = base_model.load(dataclasses.replace(lora, model=dropout), rules, shared)
    assert other.model is base.model and other.cfg.attention_dropout == 0.1
    seed = dataclasses.replace(lora, seed=dataclasses.replace(lora.seed, init=7))
    assert base_model.load(seed, rules, shared).origin != base.origin
    quantised = dataclasses.replace(lora.model, base_dtype="int8")
    quantised = dataclasses.replace(lora, model=quantised)
    assert base_model.load(quantised, rules, shared).origin.quantised == "int8"
    # Who only reads the base of such a run leaves it there.
    read = base_model.load(full, rules, shared, trains=False)
    assert base_model.load(full, rules, shared, trains=False).model is read.model
    # Who trains it takes it.
    taken = base_model.load(full, rules, shared)
    assert base_model.load(full, rules, shared).model is not taken.model
