"""Objects of one's own: each kind from outside the package, by object and as FILE.py:NAME; and what
is never run."""

import ast
import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from flax import struct
from lfl_jax.configs import math_ift

import lfl_jax
from lfl_jax import adapters, evaluate, export, main, optim
from lfl_jax.adapters.adapter_tree import layers_of
from lfl_jax.config import AdapterConfig, Config, own_code
from lfl_jax.config.own_code import Own
from lfl_jax.core import spec
from lfl_jax.core.sharding import make_rules
from lfl_jax.data import sources
from lfl_jax.errors import UserError
from lfl_jax.models import llama
from lfl_jax.models.presets import PRESETS
from lfl_jax.run_setup import base_model, earlier_run

MINE = '''
"""A source, a template, an evaluation, a model shape, and a kind of adapter."""

import dataclasses
from typing import Any

from flax import struct

from lfl_jax.adapters.kind import Kind, LowRank
from lfl_jax.adapters.lora import factors
from lfl_jax.data.examples import Example
from lfl_jax.evals import multiple_choice
from lfl_jax.models.presets import PRESETS


def plus(*, path, split, data, seed):
    parts = {"test": [0], "dev": [1], "train": range(2, 10)}[split]
    pairs = [(a, b) for a in range(10) for b in range(10) if (a + b) % 10 in parts]
    return [Example(f"What is {a} plus {b}?", str(a + b), f"{a}+{b}", f"{a}+{b}") for a, b in pairs]


def brackets(turns):
    return [(f"[Q] {text}\\n[A]", False) if role == "user" else (f" {text}", True) for role, text in turns]


def questions(inputs):
    ends = ((" even number"), (" odd number"))
    return [
        multiple_choice.Question(str(i), str(i), tuple((f"{i} is an", end) for end in ends), ends, i % 2)
        for i in range(6)
    ]


PARITY = multiple_choice.task("parity", 1, "parity", questions, ("acc",))
MINI = dataclasses.replace(PRESETS["tiny"], d_model=32, head_dim=8, d_ff=64)


@struct.dataclass
class FrozenA(Kind):
    """LoRA-FA: A is random and frozen."""

    constants = ("a", "scale")
    a: Any
    b: Any
    scale: Any

    @classmethod
    def specs(cls, weight, placement):
        return cls(**factors(weight, placement))

    def low_rank(self, w):
        return LowRank(self.a, self.scale, self.b)

    def delta(self, w):
        return (self.a * self.scale) @ self.b

    def scaled(self, factor):
        return self.replace(scale=self.scale * factor)

    def effective_size(self):
        return (self.scale != 0).sum() * self.b.shape[-1]
'''
METHOD = """
import optax


def sign(optim):
    return optax.scale_by_sign()


def halving(optim, steps, warmup):
    return lambda step: 0.5 ** (step / steps)
"""
FIELDS = {
    "data.source": "mine.py:plus",
    "data.template": "mine.py:brackets",
    "optim.name": "method.py:sign",
    "optim.schedule": "method.py:halving",
    "model.name": "mine.py:MINI",
    "adapter.kind": "mine.py:FrozenA",
}
SMALL = {
    "train.steps": 2,
    "data.seq_len": 64,
    "eval.seq_len": 64,
    "eval.max_new_tokens": 8,
    "eval.tasks": ("target_nll:2",),
    "eval.every_tasks": ("target_nll:2",),
    "eval.decontaminate": False,
    "log.tensorboard": False,
}


def write(folder):
    (folder / "mine.py").write_text(MINE)
    (folder / "method.py").write_text(METHOD)
    return folder


def options(**fields):
    return [f"--config.{name}={value}" for name, value in (SMALL | fields).items()]


def everything():
    return FIELDS | {
        "eval.tasks": ("target_nll:2", "mine.py:PARITY:4"),
        "eval.every_tasks": ("mine.py:PARITY",),
        "eval.every": 1,
    }


def start(workdir, *more):
    fields = options(**everything())
    main.main(
        ["main", "--config=configs/math_ift.py:smoke", f"--workdir={workdir}", *fields, *more]
    )


def results(folder):
    return json.loads((folder / "results.json").read_text())


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run in which everything is one's own, started on the command line, beside the files that it
    names."""
    home = write(tmp_path_factory.mktemp("home"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        start("run")
    return home / "run"


@pytest.fixture
def theirs(finished, tmp_path, monkeypatch):
    """That run as somebody else gets it, with files that leave a trace when they run, in the
    current directory."""
    shutil.copytree(finished.parent, tmp_path / "theirs")
    record = (tmp_path / "theirs/run/config.json").read_text()
    (tmp_path / "theirs/run/config.json").write_text(
        record.replace(str(finished.parent), str(tmp_path / "theirs"))
    )
    for name in ("mine.py", "method.py"):
        file = tmp_path / "theirs" / name
        file.write_text(
            f"{file.read_text()}\nwith open({str(tmp_path / 'RAN')!r}, 'a') as trace:\n"
            f"    trace.write({name!r})\n"
        )
    monkeypatch.chdir(tmp_path)
    return tmp_path / "theirs/run"


def base():
    cfg = dataclasses.replace(PRESETS["tiny"], d_model=32, head_dim=8, d_ff=64)
    return spec.init(llama.specs(cfg), jax.random.key(0))


def of_the_run(finished):
    """The base that the run drew."""
    return base_model.load(
        earlier_run.read_config(finished, own_code.allowing([finished.parent / "mine.py"])),
        make_rules(),
    )


def test_everything_of_ones_own_trains_from_the_command_line(finished):
    scores = results(finished)
    assert {row["task"] for row in scores["rows"]} == {"target_nll", "parity"}
    assert any("dev/parity" in record for record in metrics(finished))
    assert (finished / "evals/after/parity.jsonl").is_file()
    rates = [record["lr"] for record in metrics(finished) if "lr" in record]
    np.testing.assert_allclose(rates[1] / rates[0], 0.5**0.5, rtol=1e-6)
    assert scores["facts"]["provenance"]["data"]["name"] == "plus"


def test_the_run_remembers_files_and_their_hashes(finished):
    record, home = json.loads((finished / "config.json").read_text()), finished.parent
    files = [str(home / name) for name in ("method.py", "mine.py")]
    assert record["code"] == {file: own_code.digest(file) for file in files}
    assert record["config"]["optim"]["name"] == f"{home}/method.py:sign"
    assert record["config"]["eval"]["tasks"] == ["target_nll:2", f"{home}/mine.py:PARITY:4"]


def calls(run):
    """Everything that opens a run directory."""
    evaluated, exported = run.parent / "out", run.parent / "out.safetensors"
    return {
        "load_adapter": lambda *allow: lfl_jax.load_adapter(run, base(), allow_code=allow),
        "evaluate": lambda *allow: evaluate.main(
            ["x", f"--run={run}", f"--out={evaluated}", *flags(allow)]
        ),
        "export": lambda *allow: export.main(
            ["x", f"--run={run}", "--to=adapter", f"--out={exported}", *flags(allow)]
        ),
        "main": lambda *allow: main.main(
            ["x", f"--config=from_run:{run}", f"--workdir={run}", *flags(allow)]
        ),
        "get_config": lambda *allow: lfl_jax.run(f"from_run:{run}", run, allow_code=allow),
    }


def flags(files):
    return [f"--allow_code={file}" for file in files]


@pytest.mark.parametrize("name", ["load_adapter", "evaluate", "export", "main", "get_config"])
def test_a_run_directory_never_runs_code_by_being_opened(name, theirs, tmp_path):
    record = json.loads((theirs / "config.json").read_text())
    sha256 = record["code"][str(theirs.parent / "mine.py")]
    refusal = rf"mine.py:\w+ is code in a file, SHA-256 {sha256[:12]} when this was made; it runs only where you allow"
    with pytest.raises(
        UserError, match=rf"{refusal} it: read it, then add --allow_code={theirs.parent}/mine.py"
    ):
        calls(theirs)[name]()
    assert not (tmp_path / "RAN").exists()

    # That of another file does not help, and this file is no longer what the record says.
    with pytest.raises(UserError, match="is code in a file"):
        calls(theirs)[name](theirs.parent / "method.py")
    with pytest.raises(
        UserError, match=r"mine.py has changed: .*--allow_code=.*/mine.py@[0-9a-f]{12}$"
    ):
        calls(theirs)[name](theirs.parent / "mine.py")
    assert not (tmp_path / "RAN").exists()


def test_a_record_without_hashes_is_refused_too(theirs, tmp_path):
    record = json.loads((theirs / "config.json").read_text())
    record.pop("code")
    (theirs / "config.json").write_text(json.dumps(record))
    for call in calls(theirs).values():
        with pytest.raises(UserError, match=r"is code in a file; it runs only where you allow it"):
            call()
    # what marks the config of a record cannot be taken off by the record
    record["config"]["recorded_code"] = None
    (theirs / "config.json").write_text(json.dumps(record))
    with pytest.raises((UserError, KeyError)):
        calls(theirs)["main"]()
    assert not (tmp_path / "RAN").exists()


def test_a_changed_file_is_used_where_its_hash_allows_it_and_nothing_that_is_not_needed_runs(
    theirs, tmp_path
):
    sha256 = own_code.digest(str(theirs.parent / "mine.py"))
    with pytest.raises(UserError, match="is not what was allowed"):
        calls(theirs)["export"](f"{theirs.parent}/mine.py@{'0' * 12}")
    calls(theirs)["export"](f"{theirs.parent}/mine.py@{sha256[:12]}")
    assert (tmp_path / "RAN").read_text() == "mine.py", "export needs no optimizer"


def test_a_run_with_an_own_optimizer_is_evaluated_without_it(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(finished.parent)
    evaluate.main(
        [
            "x",
            "--run=run",
            f"--out={tmp_path / 'out'}",
            "--allow_code=mine.py",
            "--tasks=mine.py:PARITY:3",
        ]
    )
    assert {row["task"] for row in results(tmp_path / "out")["rows"]} == {"parity"}
    assert len((tmp_path / "out/tuned/parity.jsonl").read_text().splitlines()) == 1 + 3


def test_an_own_kind_saves_loads_mixes_and_merges(finished, tmp_path):
    base, mine = of_the_run(finished).model.params, str(finished.parent / "mine.py")
    _, adapter = lfl_jax.load_adapter(finished, base, allow_code=[mine])
    file = tmp_path / "adapter.safetensors"
    lfl_jax.save_adapter(file, adapter, base)
    with pytest.raises(
        UserError, match=rf"{mine}:FrozenA is code in a file, SHA-256 {own_code.digest(mine)[:12]}"
    ):
        lfl_jax.load_adapter(file, base)
    kind = type(layers_of(adapter)[0])
    for options in ({"allow_code": [mine]}, {"own": Own(adapter=kind)}):
        _, again = lfl_jax.load_adapter(file, base, **options)
        assert all(map(np.array_equal, jax.tree.leaves(again), jax.tree.leaves(adapter)))

    both = adapters.add(adapter, adapters.scale(adapter, 0.5))
    lfl_jax.save_adapter(tmp_path / "both.safetensors", both, base)
    _, both = lfl_jax.load_adapter(tmp_path / "both.safetensors", base, allow_code=[mine])
    one, more = (adapters.deltas(x, base)["layers"]["attn"]["q"] for x in (adapter, both))
    np.testing.assert_allclose(more, 1.5 * one, rtol=1e-5, atol=1e-7)
    merged = adapters.merge(adapter, base)["layers"]["attn"]["q"]
    np.testing.assert_allclose(merged - base["layers"]["attn"]["q"], one, atol=1e-6)
    assert float(abs(one).max()) > 1e-5


def test_an_own_kind_of_no_file_is_not_saved(finished, tmp_path):
    source = own_code.load(
        str(finished.parent / "mine.py"), own_code.digest(str(finished.parent / "mine.py"))
    )
    inside = struct.dataclass(type("Inside", (source.FrozenA,), {"__module__": "nowhere"}))
    config = AdapterConfig(
        kind="python:Inside", rank=2, code=own_code.allowing([], Own(adapter=inside))
    )
    adapter = adapters.init(
        adapters.specs(llama.specs(source.MINI), config), base(), jax.random.key(0)
    )
    with pytest.raises(UserError, match="a Inside cannot be saved, since it is in no file"):
        lfl_jax.save_adapter(tmp_path / "a.safetensors", adapter, base())


def test_a_changed_file_is_refused_on_resume(theirs, monkeypatch, tmp_path):
    """Although the command names the file: it is another than the one that the run began with."""
    monkeypatch.chdir(theirs.parent)
    with pytest.raises(UserError, match=r"mine.py has changed"):
        start("run")
    assert not (tmp_path / "RAN").exists()


def test_a_mix_with_a_source_of_ones_own(tmp_path):
    file = write(tmp_path) / "mine.py"
    data = Config.from_dict(math_ift.get_config("smoke")).data
    text = f"{file}:plus:0.75,word_problems:0.25"
    data = dataclasses.replace(data, source=text, size=8, code=own_code.allowing([file]))
    found = sources.open_source(data, "train", 0)
    assert (
        found.rates == (3, 1)
        and found.parts[0].name == "plus"
        and len(found.parts[0].examples) == 80
    )


def test_a_config_of_ones_own_names_objects_of_its_own_file(tmp_path, monkeypatch):
    """One file is the config and what it is made of; nothing of the package is changed by side
    effects."""
    lines = ["from lfl_jax.configs import math_ift", METHOD, "def get_config(argument=''):"]
    lines += [
        "    c = math_ift.get_config(argument)",
        "    c.optim.name = f'{__file__}:sign'",
        "    return c",
    ]
    (tmp_path / "config.py").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    config = lfl_jax.get_config("config.py:smoke,r=4", **{"optim.lr": 1e-3, "eval.limit": None})
    assert config.adapter.rank == 4 and config.optim.lr == 1e-3
    assert optim.find(config.optim)(config.optim).init is not None
    with pytest.raises(UserError, match="is code in a file"):  # a record of it is no permission
        optim.find(Config.from_record(json.loads(config.to_json())).optim)


def test_a_kind_a_source_and_a_task_are_under_forty_lines_each():
    sizes = [node.end_lineno - node.lineno for node in ast.parse(MINE).body]
    assert max(sizes) < 40 and MINE.count("\n") < 80
