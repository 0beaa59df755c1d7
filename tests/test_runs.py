"""A run directory as a thing to keep: moved with its base and data, resumed, lengthened, evaluated
at any step."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from lfl_jax.configs import math_ift

import lfl_jax
from lfl_jax import evaluate, export, train
from lfl_jax.config import Config
from lfl_jax.core import spec
from lfl_jax.errors import UserError
from lfl_jax.io.checkpoint import Checkpoints
from lfl_jax.models import llama
from lfl_jax.models.presets import PRESETS
from lfl_jax.run_setup import earlier_run, run_length
from lfl_jax.text.tokenizers import from_folder

TOKENIZER = Path(__file__).parent / "fixtures" / "tiny_llama"


def config(place: Path, **changes: object) -> Config:
    c = math_ift.get_config("r=4,steps=2")
    c.model.path, c.data.path, c.data.seq_len, c.log.tensorboard = (
        str(place / "model"),
        str(place / "d.jsonl"),
        64,
        False,
    )
    c.eval.tasks, c.eval.base_tasks, c.eval.every_tasks, c.eval.decontaminate = (), (), (), False
    c.checkpoint.every, c.checkpoint.keep, c.optim.schedule, c.optim.warmup_steps = (
        1,
        5,
        "constant",
        1,
    )
    for name, value in changes.items():
        section, _, field = name.partition("_")
        c[section][field] = value
    return Config.from_dict(c)


def lay_out(place: Path) -> Path:
    tokenizer = from_folder(TOKENIZER)
    cfg = dataclasses.replace(PRESETS["tiny"], vocab_size=tokenizer.vocab_size)
    params = spec.init(llama.specs(cfg), jax.random.key(0))
    lfl_jax.save(place / "model", params, cfg, tokenizer, dtype="float32")
    rows = [json.dumps({"prompt": f"a {i}", "response": "b"}) for i in range(40)]
    (place / "d.jsonl").write_text("\n".join(rows) + "\n")
    return place


def final(folder: Path) -> dict:
    with Checkpoints(folder / "checkpoints", read_only=True) as saved:
        return saved.metadata()["figures"] | {"step": saved.latest_step()}


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = lay_out(tmp_path_factory.mktemp("first"))
    train.run(train.Run(config(place), place / "run"))
    return place


@pytest.fixture
def moved(first: Path, tmp_path: Path) -> Path:
    """Everything elsewhere, and nothing where it was."""
    place = tmp_path / "elsewhere"
    shutil.copytree(first, place)
    record = json.loads((place / "run" / "config.json").read_text())
    record["config"]["model"]["path"] = record["config"]["data"]["path"] = "/gone/from/here"
    (place / "run" / "config.json").write_text(json.dumps(record))
    return place


def test_a_moved_run_is_read_without_its_base_and_exported_with_it(moved: Path) -> None:
    params, *_ = lfl_jax.load(moved / "model")
    tuned, adapter = lfl_jax.load_adapter(moved / "run", params)
    assert tuned is params and np.abs(adapter["layers"]["attn"]["q"].b).max() > 0
    with pytest.raises(
        UserError,
        match="/gone/from/here: no such model; name where it is now with --config.model.path",
    ):
        export.main(["export", f"--run={moved / 'run'}", "--to=peft", f"--out={moved / 'peft'}"])
    place = f"--config.model.path={moved / 'model'}"
    export.main(["export", f"--run={moved / 'run'}", "--to=peft", f"--out={moved / 'peft'}", place])
    assert (moved / "peft" / "adapter_config.json").exists()


def test_a_moved_run_is_evaluated_at_any_step_on_other_tasks(moved: Path) -> None:
    places = [f"--config.model.path={moved / 'model'}", f"--config.data.path={moved / 'd.jsonl'}"]
    command = ["evaluate", f"--run={moved / 'run'}", "--tasks=target_nll:2", *places]
    for step in ("1", "latest"):
        evaluate.main([*command, f"--out={moved / step}", f"--step={step}"])
    changes = [
        (moved / step / "tuned" / "target_nll.jsonl").read_text().splitlines()[1:]
        for step in ("1", "latest")
    ]
    base = (moved / "1" / "base" / "target_nll.jsonl").read_text().splitlines()[1:]
    assert changes[0] == base, "the first step of a warmup changes nothing"
    assert changes[1] != base
    with pytest.raises(UserError, match="no checkpoint of step 7"):
        evaluate.main([*command, f"--out={moved / 'no'}", "--step=7"])
    with pytest.raises(
        UserError, match="no checkpoint was evaluated by target_nll; give --step=latest"
    ):
        evaluate.main([*command, f"--out={moved / 'no'}", "--step=best"])
    with pytest.raises(UserError, match="--step=last: expected latest, best or a number"):
        evaluate.main([*command, f"--out={moved / 'no'}", "--step=last"])


def test_a_moved_run_resumes_and_is_lengthened_exactly(moved: Path, tmp_path: Path) -> None:
    longer = config(moved, train_steps=4, eval_tasks=("target_nll:2",))
    outcome = train.run(train.Run(longer, moved / "run"))
    assert outcome.trained == 2 and "target_nll" in outcome.after
    train.run(train.Run(config(moved, train_steps=4), tmp_path / "whole"))
    pair = [
        earlier_run.restore(folder, model_path=str(moved / "model"))[1]
        for folder in (moved / "run", tmp_path / "whole")
    ]
    assert jax.tree.all(jax.tree.map(np.array_equal, pair[0].adapter, pair[1].adapter))
    assert final(moved / "run")["tokens"] == final(tmp_path / "whole")["tokens"] > 0


def test_other_data_or_another_base_is_refused_by_content(moved: Path) -> None:
    with (moved / "d.jsonl").open("a") as file:
        file.write('{"prompt": "new", "response": "row"}\n')
    with pytest.raises(UserError, match="d.jsonl is not the data that this run was trained on"):
        train.run(train.Run(config(moved, train_steps=4), moved / "run"))
    params, *_ = lfl_jax.load(moved / "model")
    other = {**params, "final_norm": params["final_norm"] + 1}
    with pytest.raises(UserError, match="belongs to base"):
        lfl_jax.load_adapter(moved / "run", other)


def lengthened(
    folder: Path, reached: int, schedule: str, lengths: tuple[int, int], **changes: object
) -> None:
    """`run_length.check_resumable` of a run of lengths[0] steps, trained up to `reached`, as one of
    lengths[1] steps."""
    folder, changes = folder / f"{schedule}-{reached}", changes | {"optim_schedule": schedule}
    (folder / "checkpoints" / str(reached)).mkdir(parents=True, exist_ok=True)
    record = {
        "hash": "",
        "config": json.loads(config(folder, train_steps=lengths[0], **changes).to_json()),
    }
    (folder / "config.json").write_text(json.dumps(record))
    run_length.check_resumable(
        folder,
        config(folder, train_steps=lengths[1], **changes),
        lengths[1],
        lambda c: c.train.steps,
    )


def test_a_run_can_be_lengthened_while_its_past_would_be_the_same(tmp_path: Path) -> None:
    lengthened(tmp_path, 10, "constant", (10, 20))
    lengthened(tmp_path, 10, "constant", (20, 10))
    lengthened(tmp_path, 8, "trapezoid", (10, 20))
    lengthened(tmp_path, 10, "cosine", (10, 10))
    with pytest.raises(UserError, match="other learning rates from step 10 on"):
        lengthened(tmp_path, 10, "trapezoid", (10, 20))
    with pytest.raises(
        UserError, match="cosine schedule would have had other learning rates from step 3 on"
    ):
        lengthened(tmp_path, 10, "cosine", (10, 20))
    with pytest.raises(UserError, match="other learning rates from step 2 on"):
        lengthened(tmp_path, 10, "constant", (10, 40), optim_warmup_steps=0)
    with pytest.raises(UserError, match="has trained 10 steps already; 5 are less"):
        lengthened(tmp_path, 10, "constant", (10, 5))


@pytest.mark.parametrize(
    ("changes", "steps", "expected"),
    [
        ({}, 9, []),
        ({"eval_every": 4}, 9, [0, 4, 8]),
        ({"eval_every": 4}, 3, [0]),
        ({"eval_every_tokens": 128.0}, 9, [0, 2, 4, 6, 8]),
        ({"eval_log_spaced": 8}, 128, [0, 1, 2, 4, 8, 16, 32, 64, 128]),
        ({"eval_log_spaced": 8}, 5, [0, 1, 2, 3, 4, 5]),
        ({"eval_log_spaced": 4}, 160, [0, 1, 5, 29, 160]),
        ({"eval_log_spaced": 2}, 1, [0, 1]),
    ],
)
def test_a_run_is_evaluated_at_even_or_at_log_spaced_steps(
    tmp_path: Path, changes: dict, steps: int, expected: list[int]
) -> None:
    found = run_length.evaluation_steps(config(tmp_path, **changes), steps)
    assert sorted(found) == expected


def test_a_resumed_run_evaluates_at_the_same_steps(first: Path, tmp_path: Path) -> None:
    changes = {"train_steps": 5, "eval_log_spaced": 3, "eval_every_tasks": ("target_nll:2",)}
    c, whole, resumed = config(first, **changes), tmp_path / "whole", tmp_path / "resumed"
    train.run(train.Run(c, whole))
    shutil.copytree(whole, resumed)
    for step in (4, 5):
        shutil.rmtree(resumed / "checkpoints" / str(step))
    shutil.rmtree(resumed / "evals" / "dev-000005")
    assert train.run(train.Run(c, resumed)).trained == 2

    for folder in (whole, resumed):
        evaluated = sorted(path.name for path in (folder / "evals").glob("dev-*"))
        assert evaluated == ["dev-000000", "dev-000001", "dev-000002", "dev-000005"]
        lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        steps = [line["step"] for line in lines if "dev/target_nll" in line]
        assert steps == [0, 1, 2, 5]


def test_a_damaged_last_checkpoint_is_trained_again_from_the_one_before(
    first: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    shutil.copytree(first / "run", tmp_path / "run")
    damaged = tmp_path / "run" / "checkpoints" / "2" / "adapter" / "_METADATA"
    damaged.write_bytes(damaged.read_bytes()[:-20])
    assert train.run(train.Run(config(first), tmp_path / "run")).trained == 1
    line = f"checkpoint {damaged.parents[1]} is damaged: adapter/_METADATA is not what was written"
    assert line in " ".join(capsys.readouterr().err.split())
    pair = [earlier_run.restore(folder / "run")[1] for folder in (first, tmp_path)]
    assert jax.tree.all(jax.tree.map(np.array_equal, pair[0].adapter, pair[1].adapter))


def test_without_its_record_a_run_resumes_with_its_own_config_alone(
    first: Path, tmp_path: Path
) -> None:
    shutil.copytree(first / "run", tmp_path / "run")
    (tmp_path / "run" / "config.json").unlink()
    with pytest.raises(UserError, match="holds checkpoints of config .* there is no config.json"):
        train.run(train.Run(config(first, optim_lr=1e-5), tmp_path / "run"))
    assert not (tmp_path / "run" / "config.json").exists()
    assert train.run(train.Run(config(first), tmp_path / "run")).trained == 0


def test_the_only_checkpoint_damaged_is_a_line(first: Path, tmp_path: Path) -> None:
    shutil.copytree(first / "run", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "1")
    (tmp_path / "run" / "checkpoints" / "2" / "_CHECKPOINT_METADATA").unlink()
    with pytest.raises(UserError, match="_METADATA is missing, and there is no other; to train"):
        train.run(train.Run(config(first), tmp_path / "run"))
    with pytest.raises(UserError, match="is damaged"):
        earlier_run.restore(tmp_path / "run")
    assert (tmp_path / "run" / "checkpoints" / "2").is_dir(), "nothing is moved"


def test_the_hash_is_of_what_is_trained_not_of_where(tmp_path: Path) -> None:
    here, there = config(tmp_path / "a"), config(tmp_path / "b")
    assert here.hash() == there.hash() == config(tmp_path, eval_tasks=("target_nll:2",)).hash()
    assert (
        here.hash()
        != config(tmp_path, data_path="").hash()
        != config(tmp_path, optim_lr=0.5).hash()
    )
    assert (
        config(tmp_path, model_path="hf:a/b").hash() != config(tmp_path, model_path="hf:a/c").hash()
    )
    assert (
        dataclasses.replace(here, train=dataclasses.replace(here.train, steps=3)).hash()
        != here.hash()
    )
