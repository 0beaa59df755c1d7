"""Going on from an earlier adapter: trained further, or frozen under a new one; from a run, a file,
a PEFT folder."""

import json
import shutil
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from lfl_jax.configs import math_ift

import lfl_jax
from lfl_jax import adapters, evaluate, export, main, train
from lfl_jax.config import Config, locations
from lfl_jax.errors import UserError
from lfl_jax.model import Model
from lfl_jax.report import describe
from lfl_jax.run_setup import earlier_run, starting


def config(argument: str = "r=4", steps: int = 1, **changes: object) -> Config:
    """A smoke run whose first step, of a warmup, changes nothing: its adapter after one step is
    that of its start."""
    c = math_ift.get_config(f"smoke,{argument},steps={steps}")
    c.eval.tasks, c.eval.base_tasks, c.eval.every_tasks, c.eval.decontaminate = (
        ("target_nll:2",),
        (),
        (),
        False,
    )
    c.checkpoint.every, c.log.tensorboard = 1, False
    c.optim.schedule, c.optim.warmup_steps = "constant", 1
    for name, value in changes.items():
        section, _, field = name.partition("_")
        c[section][field] = str(value) if isinstance(value, Path) else value
    return Config.from_dict(c)


def trained(folder: Path) -> Model:
    """The model of a run at its last step."""
    return earlier_run.restore(folder)[1]


def run(folder: Path, *args: object, **changes: object) -> Model:
    train.run(train.Run(config(*args, **changes), folder))
    return trained(folder)


def same(one: object, other: object) -> bool:
    return jax.tree.structure(one) == jax.tree.structure(other) and jax.tree.all(
        jax.tree.map(np.array_equal, one, other)
    )


def layer(tuned: Model, name: str = "q") -> object:
    return tuned.adapter["layers"]["attn"][name]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of rank 4 at q and v, and its adapter as a file and as a PEFT folder."""
    place = tmp_path_factory.mktemp("first")
    run(place / "run", "r=4", 2, adapter_targets=("q", "v"))
    for form, out in (("adapter", "file.safetensors"), ("peft", "peft")):
        export.main(
            [
                "export",
                f"--run={place / 'run'}",
                f"--to={form}",
                "--dtype=float32",
                f"--out={place / out}",
            ]
        )
    return place


@pytest.mark.parametrize("form", ["run", "file.safetensors", "peft"])
def test_an_adapter_is_trained_further_from_where_it_was(
    first: Path, tmp_path: Path, form: str
) -> None:
    start = trained(first / "run")
    found = run(tmp_path / "a", "r=4", 1, adapter_targets=("q", "v"), adapter_path=first / form)
    assert same(found.adapter, start.adapter) and np.abs(layer(found).b).max() > 0


def test_a_run_from_an_adapter_is_compared_with_the_base_and_says_where_it_began(
    first: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "a"
    values = (
        "smoke,r=4,steps=2",
        "optim.schedule=constant",
        "optim.warmup_steps=1",
        "eval.tasks=('target_nll:2',)",
    )
    name, *fields = values
    command = [f"--config=configs/math_ift.py:{name}", *(f"--config.{field}" for field in fields)]
    command += [
        "--config.eval.base_tasks=()",
        f"--config.adapter.path={first / 'run'}",
        f"--workdir={folder}",
    ]
    main.main(
        [
            "main",
            *command,
            "--config.adapter.targets=('q','v')",
            "--config.eval.decontaminate=false",
        ]
    )
    records = [
        (place / "evals" / "before" / "target_nll.jsonl").read_text()
        for place in (folder, first / "run")
    ]
    assert records[0].splitlines()[1:] == records[1].splitlines()[1:], "the baseline is the base"
    facts = json.loads((folder / "results.json").read_text())
    assert "trained further" in json.dumps(facts) and str(first / "run") in json.dumps(facts)
    assert "training began from the adapter" in " ".join(
        (folder / "summary.txt").read_text().split()
    )


@pytest.mark.parametrize("field", [pytest.param("path", marks=pytest.mark.slow), "over"])
def test_it_resumes_exactly_also_when_the_first_is_gone(
    first: Path, tmp_path: Path, field: str
) -> None:
    place = shutil.copytree(first, tmp_path / "copy")
    changes = {"adapter_targets": ("q", "v"), f"adapter_{field}": place / "run"}
    whole = run(tmp_path / "whole", "r=4", 3, **changes)
    run(tmp_path / "halves", "r=4", 2, **changes)
    shutil.rmtree(place)
    halves = run(tmp_path / "halves", "r=4", 3, **changes)
    assert same(whole.adapter, halves.adapter)
    assert [earlier_run.restore(tmp_path / name)[2] for name in ("whole", "halves")] == [3, 3]


@pytest.fixture(scope="module")
def both(first: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new DoRA of rank 2 at q and k over the first."""
    folder = tmp_path_factory.mktemp("both") / "run"
    command = config(
        "dora,r=2", 3, adapter_targets=("q", "k"), adapter_over=first / "file.safetensors"
    )
    facts = train.run(train.Run(command, folder)).facts
    assert any(
        "frozen, under the one that trains" in line for line in describe.flags(facts["provenance"])
    )
    base, found, _ = earlier_run.restore(folder)
    alone = earlier_run.second(folder, found.adapter, base.model.params)
    assert (facts["trainable"], facts["trainable_stored"]) == adapters.sizes(alone), (
        "the first does not count"
    )
    return folder


def test_a_second_adapter_trains_over_a_first_that_stays(first: Path, both: Path) -> None:
    (base, found, _), start = earlier_run.restore(both), trained(first / "run")
    q, k, v = (layer(found, name) for name in "qkv")
    assert same(q.layers[0], layer(start, "q")) and same(v, layer(start, "v"))
    assert np.abs(q.layers[1].b).max() > 0 and np.abs(k.b).max() > 0 and type(k).__name__ == "DoRA"
    _, adapter = lfl_jax.load_adapter(both, base.model.params)
    assert same(adapter, found.adapter)
    alone = earlier_run.second(both, adapter, base.model.params)["layers"]["attn"]
    assert same(alone["q"], q.layers[1]) and alone["v"] is None
    lines = [json.loads(line) for line in (both / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(line["loss"]) for line in lines if "loss" in line)


@pytest.mark.slow
def test_a_third_goes_over_both(both: Path, tmp_path: Path) -> None:
    found = run(tmp_path / "third", "r=2", 1, adapter_targets=("q",), adapter_over=both)
    assert [type(m).__name__ for m in layer(found).layers] == ["LoRA", "DoRA", "LoRA"]
    assert same(layer(found).layers[:2], layer(trained(both)).layers)


def test_both_are_evaluated_and_exported(both: Path, tmp_path: Path) -> None:
    evaluate.main(
        ["evaluate", f"--run={both}", "--tasks=target_nll:2", f"--out={tmp_path / 'evals'}"]
    )
    records = [
        (place / "target_nll.jsonl").read_text().splitlines()[1:]
        for place in (tmp_path / "evals" / "tuned", both / "evals" / "after")
    ]
    assert records[0] == records[1]
    command = ["export", f"--run={both}"]
    export.main([*command, "--to=adapter", "--second", f"--out={tmp_path / 's.safetensors'}"])
    export.main([*command, "--to=peft", "--second", f"--out={tmp_path / 'peft'}"])
    export.main([*command, "--to=adapter", f"--out={tmp_path / 'both.safetensors'}"])
    base = earlier_run.restore(both)[0].model
    kinds = [
        [type(x).__name__ for x in (adapter["layers"]["attn"][name] for name in "qkv")]
        for _, adapter in (
            lfl_jax.load_adapter(tmp_path / name, base.params)
            for name in ("s.safetensors", "both.safetensors")
        )
    ]
    assert kinds == [["DoRA", "DoRA", "NoneType"], ["Mix", "DoRA", "LoRA"]]


@pytest.mark.slow
def test_a_fully_trained_run_goes_on_with_its_parameters(tmp_path: Path) -> None:
    start = run(tmp_path / "full", "full", 2)
    base_params = earlier_run.restore(tmp_path / "full")[0].model.params
    found = run(tmp_path / "further", "full", 1, adapter_path=tmp_path / "full")
    assert same(found.params, start.params) and not same(found.params, base_params)
    with pytest.raises(
        UserError, match="is a model whose parameters trained, without an adapter; .* with :full"
    ):
        run(tmp_path / "lora", "r=4", 1, adapter_path=tmp_path / "full")
    with pytest.raises(UserError, match="over=.*full is not an adapter alone"):
        run(tmp_path / "over", "r=4", 1, adapter_over=tmp_path / "full")


@pytest.mark.slow
def test_parameters_that_came_with_an_adapter_train_on(tmp_path: Path) -> None:
    changes = {"adapter_targets": ("q", "v")}
    c = config("r=4", 2, **changes).to_json()
    both = Config.from_record(json.loads(c) | {"trainable": ["adapter/.*", "params/final_norm"]})
    train.run(train.Run(both, tmp_path / "first"))
    start = trained(tmp_path / "first")
    further = json.loads(c) | {"trainable": ["adapter/.*", "params/final_norm"]}
    further["adapter"] |= {"path": str(tmp_path / "first")}
    further["train"] |= {"steps": 1}
    train.run(train.Run(Config.from_record(further), tmp_path / "further"))
    base, found, _ = earlier_run.restore(tmp_path / "further")
    base_params = base.model.params
    assert same(found.adapter, start.adapter) and same(found.params, start.params)
    assert not same(found.params, base_params)
    with pytest.raises(UserError, match=r"trainable=\"\('adapter/\.\*','params/final_norm'\)\""):
        run(tmp_path / "frozen", "r=4", 1, adapter_path=tmp_path / "first", **changes)


def refused(tmp_path: Path, argument: str = "r=4", **changes: object) -> str:
    with pytest.raises(UserError) as error:
        run(tmp_path / "refused", argument, 1, **changes)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_the_config_contradicts_is_said_with_the_flags_that_agree(
    first: Path, tmp_path: Path
) -> None:
    said = refused(tmp_path, "dora,r=8", adapter_path=first / "run")
    assert (
        "holds lora of rank 4, alpha 8, at q, v; the config asks for dora of rank 8, alpha 16, at"
        " q, k" in said
    )
    flags = "--config.adapter.kind=lora --config.adapter.rank=4 --config.adapter.alpha=8"
    assert f"{flags} --config.adapter.targets=\"('q', 'v')\"" in said
    said = refused(tmp_path, "r=4,alpha=9", adapter_path=first / "run", adapter_targets=("q", "v"))
    assert said.endswith(": set --config.adapter.alpha=8")
    assert "no adapter" in refused(tmp_path, "full", adapter_path=first / "run")


@pytest.mark.parametrize("field", ["path", "over"])
def test_what_is_no_adapter_of_this_base_is_refused(
    first: Path, tmp_path: Path, field: str
) -> None:
    name = f"adapter_{field}"
    targets = {"adapter_targets": ("q", "v")}
    assert "there is nothing; expected a PEFT folder" in refused(
        tmp_path, **{name: "/nowhere"}, **targets
    )
    assert "no adapter here; expected a PEFT folder" in refused(
        tmp_path, **{name: tmp_path}, **targets
    )
    for form in ("run", "file.safetensors", "peft"):
        assert "base" in refused(tmp_path, seed_init=1, **{name: first / form}, **targets)


def test_both_ways_at_once_are_refused() -> None:
    with pytest.raises(UserError, match="adapter.path and config.adapter.over both say"):
        config(adapter_path="a", adapter_over="b")
    with pytest.raises(UserError, match="set config.adapter.kind"):
        config("full", adapter_over="b")


def test_a_missing_data_file_is_answered_with_the_field_that_names_it(tmp_path: Path) -> None:
    said = refused(tmp_path, data_path="/gone.jsonl", data_source="jsonl")
    assert said == "no data file /gone.jsonl; name where it is now with --config.data.path=PATH"


@pytest.mark.parametrize(
    ("given", "meant"),
    [("~/a", "~/a"), ("runs/a", "/here/runs/a"), ("hf:org/a", "hf:org/a"), ("a-name", "a-name")],
)
def test_places_of_adapters_are_those_of_the_command(given: str, meant: str) -> None:
    for field in ("path", "over"):
        found = config(**{f"adapter_{field}": given}).with_places(
            partial(locations.absolute, here=Path("/here"))
        )
        assert getattr(found.adapter, field) == str(Path(meant).expanduser())


def test_the_config_can_say_which_run_it_starts_from(first: Path, tmp_path: Path) -> None:
    trained_by = earlier_run.read_config(first / "run").hash()
    changes = {"adapter_targets": ("q", "v"), "adapter_path": first / "run"}
    named = config(**changes, adapter_start_config=trained_by)
    starting.check(named, tmp_path / "a")
    # It is a part of what the run is, and a config without it is the one that it was.
    assert len({named.hash(), config(**changes).hash(), config().hash()}) == 3
    cases = {
        "holds the run of config": {"adapter_start_config": "0" * 12},
        "is no run directory": {"adapter_path": first / "peft"},
    }
    for said, change in cases.items():
        other = config(**changes | {"adapter_start_config": trained_by} | change)
        with pytest.raises(UserError, match=said):
            starting.check(other, tmp_path / "a")
    half = shutil.copytree(first / "run", tmp_path / "half")
    for last in half.glob("checkpoints/2"):
        shutil.rmtree(last)
    other = config(**changes | {"adapter_path": half}, adapter_start_config=trained_by)
    with pytest.raises(UserError, match="has trained . of 2 steps; let it end first"):
        starting.check(other, tmp_path / "a")
    with pytest.raises(UserError, match="is of the run to start from; name its directory"):
        config(adapter_start_config=trained_by)
