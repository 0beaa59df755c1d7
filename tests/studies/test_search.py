"""A search finds the best candidate on dev items, resumes, and refuses a best one at an edge."""

import dataclasses
import json
import math
import shlex

import numpy as np
import pytest
from lfl_jax.configs.studies import search as config_file
from rich.console import Console

from lfl_jax import study as command_module
from lfl_jax.config import command_line
from lfl_jax.core import files
from lfl_jax.errors import NonFiniteLoss, UserError
from lfl_jax.studies import grid
from lfl_jax.studies.search import choice as search_choice
from lfl_jax.studies.search import files as search_files
from lfl_jax.studies.search import report as search_report
from lfl_jax.studies.search import rungs as search_rungs
from lfl_jax.studies.search import search
from lfl_jax.studies.search.files import Report
from lfl_jax.studies.search.search import Candidate

ITEMS = 12


def read(argument="smoke", **changes):
    return search.read(config_file.get_config(argument).to_dict() | changes)


def records(path, values):
    """A file of target_nll's records, one token an item."""
    rows = [
        {"id": f"{i}", "cluster": f"{i}", "nll": float(x), "tokens": 1, "bytes": 1}
        for i, x in enumerate(values)
    ]
    lines = [{"settings": {"items": len(rows)}}, *rows]
    files.write_text(path, "".join(json.dumps(line) + "\n" for line in lines))


class World:
    """Losses of a known shape: a parabola in log lr around `lr`, and one in log rank.

    Short runs prefer higher rates, as they do in truth: the best is shifted by `shift` for every
    factor of 2 in length.
    """

    def __init__(self, lr=1e-3, rank=2, shift=0.0, faults=()):
        self.lr, self.rank, self.shift, self.faults, self.done = lr, rank, shift, dict(faults), []

    def loss(self, config):
        best = math.log10(self.lr) - self.shift * math.log2(config.train.steps / 4)
        away = math.log10(config.optim.lr) - best
        ranks = math.log2(config.adapter.rank / self.rank)
        return 1 + 0.1 * away**2 + 0.02 * ranks**2 + 0.003 * math.sin(config.seed.data)

    def __call__(self, config, folder, base_records, shared):
        self.done.append(folder.name)
        fault = self.faults.get(folder.name)
        if isinstance(fault, Exception):
            raise fault
        if fault == "interrupted":
            del self.faults[folder.name]
            return False
        items = 0.1 * np.random.default_rng(0).standard_normal(ITEMS)
        files.write_json(folder / "config.json", {"hash": config.hash(), "config": config.values()})
        dev = folder / f"evals/dev-{config.train.steps:06d}/target_nll.jsonl"
        records(dev, self.loss(config) + items)
        if config.eval.tasks:
            records(folder / "evals/before/target_nll.jsonl", 3 + items)
            records(folder / "evals/after/target_nll.jsonl", self.loss(config) + items + 0.5)
        (folder / "checkpoints").mkdir(exist_ok=True)
        base = {"dequantised_from": "", "source": "given", "fingerprint": "f"}
        data = {"synthetic": True, "description": "synthetic problems", "sha256": "s"}
        facts = {"provenance": {"base": base, "data": data}}
        files.write_json(folder / "results.json", {"facts": facts})
        return True


def follow(folder, world):
    """The whole command, with its files."""
    task = search_rungs.Search(read(), folder / "search", world, quiet=True)
    return search_report.follow(task, "python -m ...", Console(width=120))


def climb(folder, world, config=None):
    """The rungs, and what is chosen, without files."""
    task = search_rungs.Search(config or read(), folder / "search", world, quiet=True)
    rungs = list(search_rungs.rungs(task))
    return rungs, search_choice.choose(task.config, rungs[-1])


def test_it_finds_the_best_and_reports_test_items_of_it_alone(tmp_path, capsys):
    world = World()
    report = follow(tmp_path, world)
    assert report.choice.best == Candidate("attention", 2, 1e-3)
    # 9 candidates briefly; 3 go on, and with the best one's neighbours there are 5, twice.
    assert len(world.done) == len({*world.done}) + 2 == 9 + 2 * 5 + 2
    tested = {path.parts[-3] for path in tmp_path.glob("search/runs/*/evals/after")}
    assert tested == {f"attention_r2-0.001-4-s{seed}" for seed in (0, 1)}
    [row] = report.tested
    assert row.base == pytest.approx(3, abs=0.1)
    assert row.change.mean == pytest.approx(row.tuned - row.base)
    assert {path.name for path in tmp_path.glob("search/search.*")} == {
        f"search.{form}" for form in ("json", "csv", "svg", "pdf", "png")
    }
    out = capsys.readouterr().out
    assert "training source is synthetic problems" in out
    assert "2 steps, 1 seed: target_nll/nll on 12 dev items" in out
    assert "best at 4 steps: lr 0.001, attention, rank 2" in out and "python -m lfl_jax.main" in out


def test_the_interval_is_that_of_the_planted_optimum(tmp_path):
    # Rates a third of a decade apart, between which the optimum lies.
    rates = tuple(10 ** (-4 + i / 3) for i in range(7))
    _, choice = climb(tmp_path, World(lr=1.3e-3), read(lr=rates, rank=(2,)))
    assert choice.optimum.rate == pytest.approx(1.3e-3, rel=1e-3)
    low, high = choice.optimum.interval()
    assert low <= 1.3e-3 * 1.001 and high >= 1.3e-3 * 0.999


def test_the_best_of_short_runs_need_not_be_that_of_long_ones(tmp_path):
    """Halving alone would keep the high rates; the neighbours lead down to the best."""
    rates = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
    config = read(lr=rates, rank=(2,), keep=5)
    (first, last), choice = climb(tmp_path, World(lr=3e-4, shift=1.0), config)
    assert first.best.lr == 3e-3 and choice.best.lr == 3e-4
    assert [c.lr for c in last.values] == [3e-3, 1e-3, 1e-2, 3e-4, 1e-4]


def test_a_best_value_at_the_edge_is_refused(tmp_path):
    with pytest.raises(UserError, match="refused: the best lr, 0.01, is the highest searched"):
        follow(tmp_path, World(lr=1.0))
    written = files.read_json_object(tmp_path / "search/search.json")
    assert written["to_use"] is None and written["test"] == [] and written["refused"]
    # The test items are left for the search that ends.
    assert not list(tmp_path.glob("search/runs/*/evals/after"))


@pytest.mark.parametrize(
    ("world", "words"),
    [
        (World(lr=1e-6, rank=1), ["best lr, 0.0001, is the lowest searched and better than 0.001"]),
        (World(lr=1.0, rank=64), ["add higher ones to lr", "add higher ones to rank"]),
        # There is no lower rank to add.
        (World(rank=1), []),
    ],
)
def test_edges(tmp_path, world, words):
    _, choice = climb(tmp_path, world)
    assert len(choice.edges) == len(words)
    assert all(word in edge for word, edge in zip(words, choice.edges, strict=True))


def test_a_search_that_was_stopped_anywhere_ends_as_one_that_was_not(tmp_path):
    stops = ("attention_r2-0.001-2-s0", "attention_r2-0.001-4-s1", "attention_r2-0.01-4-s0")
    world = World(faults=dict.fromkeys(stops, "interrupted"))
    for _ in stops:
        with pytest.raises(search_rungs.Interrupted):
            climb(tmp_path / "parts", world, read(rank=(2,)))
    climb(tmp_path / "parts", world, read(rank=(2,)))
    whole = climb(tmp_path / "whole", World(), read(rank=(2,)))
    # Ended, it does nothing again.
    again = World()
    assert contents(*climb(tmp_path / "parts", again, read(rank=(2,)))) == contents(*whole)
    assert again.done == []


def contents(rungs, choice):
    return json.dumps(search_files.content(Report(read(), rungs, choice, [], "")))


def test_the_range_may_be_extended_afterwards(tmp_path):
    climb(tmp_path, World(lr=1e-1), read(rank=(2,)))
    world = World(lr=1e-1)
    rates = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    _, choice = climb(tmp_path, world, read(rank=(2,), lr=rates))
    assert choice.best.lr == 0.1 and not choice.edges
    assert "attention_r2-0.001-2-s0" not in world.done


def test_failures_are_dropped_with_their_reason(tmp_path, capsys):
    faults = {
        "attention_r2-0.01-4-s1": NonFiniteLoss("loss nan at step 3"),
        "attention_r2-0.0001-2-s0": UserError("no room [x]"),
    }
    (first, last), choice = climb(tmp_path, World(faults=faults), read(rank=(2,)))
    assert choice.best == Candidate("attention", 2, 1e-3)
    assert list(first.dropped) == [Candidate("attention", 2, 1e-4)]
    assert list(last.dropped) == [Candidate("attention", 2, 1e-2)]
    # The rate above the best diverged: the best is no edge, but there is no parabola, either.
    assert choice.optimum is None and "at least 3" in choice.no_optimum and not choice.edges
    search_report.show_rung(read(), first, Console(width=120))
    assert "attention_r2-0.0001-2-s0 failed: no room [x]" in capsys.readouterr().out


def test_without_any_score_it_says_why(tmp_path):
    class Never(World):
        def __call__(self, config, folder, base_records, shared):
            raise UserError("no room")

    with pytest.raises(UserError, match="no candidate has a score at 2 steps: .* failed: no room"):
        climb(tmp_path, Never(), read(rank=(2,)))


def test_scores_measured_otherwise_are_refused(tmp_path):
    climb(tmp_path, World(), read(rank=(2,)))
    config = config_file.get_config("smoke").config.to_dict()
    config["eval"]["every_tasks"] = ("target_nll:4",)
    with pytest.raises(UserError, match=r"another eval\.every_tasks; give the search another"):
        climb(tmp_path, World(), read(config=config, rank=(2,)))


def test_an_older_record_without_a_newer_field_is_measured_alike(tmp_path):
    climb(tmp_path, World(), read(rank=(2,)))
    for file in tmp_path.glob("search/runs/*/config.json"):
        record = files.read_json_object(file)
        # Its default is what the search wants.
        assert record["config"]["eval"].pop("log_spaced") == 0
        files.write_json(file, record)
    again = World()
    climb(tmp_path, again, read(rank=(2,)))
    assert again.done == []


def test_checkpoints_stay_where_they_are_needed(tmp_path):
    climb(tmp_path, World(), read(rank=(2,)))
    lengths = {path.parts[-2].split("-")[-2] for path in tmp_path.glob("search/runs/*/checkpoints")}
    assert lengths == {"4"}


def test_how_sure_the_choice_is(tmp_path):
    """Candidates that differ by a constant leave no doubt; equal ones leave it to the noise."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((3, 20))
    names = [Candidate("all", rank, 1e-3) for rank in (1, 2, 4, 8)]
    shifted = {name: noise + index for index, name in enumerate(names)}
    clusters = tuple(map(str, range(20)))

    def share(values):
        rung = search_rungs.Rung(4, (0, 1, 2), values, -1.0, clusters, {})
        return search_choice.share_of_best(rung, resamples=400)

    assert share(shifted) == 1.0
    assert share({name: rng.standard_normal((3, 20)) for name in names}) < 0.8


def test_the_printed_command_trains_the_winner():
    config = read()
    best = Candidate("attention", 2, 1e-3)
    words = search_files.command(config, best)
    assert words.startswith("python -m lfl_jax.main --config=configs/math_ift.py:smoke")
    flags = {"workdir": ("", "")}
    parsed, _ = command_line.parse(shlex.split(words)[2:], "", flags)
    [[planned]] = search.tested(config, [best], 4, [0]).values()
    # The seeds are the search's; everything else that trains is equal.
    assert parsed.hash() == _with_seeds(planned.config, parsed).hash()


def _with_seeds(config, other):
    data = dataclasses.replace(config.data, seed=other.data.seed)
    return dataclasses.replace(config, seed=other.seed, data=data)


@pytest.mark.parametrize(("argument", "candidates"), [("", 48), ("smollm2", 36), ("smoke", 9)])
def test_the_searches_that_there_are(argument, candidates):
    assert len(search.candidates(read(argument))) == candidates


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rates": (1.0,)}, "unknown search field rates"),
        ({"lr": (1e-3, 1e-2)}, "at least 3 learning rates"),
        ({"lr": (1e-2, 1e-3, 1e-4)}, "ascending"),
        ({"rank": (2, 4)}, "expected one rank or at least 3"),
        ({"steps": (4, 4)}, "ascending"),
        ({"targets": {}}, "expected sets of modules"),
        ({"targets": {"a-b": ("q",)}}, "targets 'a-b'"),
        ({"keep": 1}, "keep=1"),
        ({"seeds": (0, 0)}, "seeds=(0, 0)"),
        ({"base": ""}, "search field base"),
        ({"base": "math_ift:smoke,full"}, "has no adapter with a rank"),
        ({"measure": "gsm8k/exact_match"}, "add gsm8k to eval.every_tasks"),
        ({"config": {"optim": {"lr": 1.0}}}, "sets optim.lr, which the search sets"),
    ],
)
def test_mistakes(changes, message):
    with pytest.raises(UserError) as error:
        read(**changes)
    assert message in str(error.value)


def test_the_study_command_knows_both(tmp_path, capsys):
    arguments = ["study", f"--config={config_file.__file__}:smoke", f"--workdir={tmp_path}"]
    command_module.main([*arguments, "--plan"])
    assert "rung 2: 3 candidates x 4 steps x 2 seeds" in capsys.readouterr().out
    with pytest.raises(UserError, match="--only is for studies"):
        command_module.main([*arguments, "--only=x"])
    values = grid.load_values("configs/studies/search.py:smoke")
    assert values["kind"] == "search"
    with pytest.raises(UserError, match="unknown study field keep"):
        grid.read(values | {"kind": "study"})
