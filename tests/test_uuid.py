"""The memorisation config: its arguments, the paper's protocol, and a run from start to end."""

import json

import pytest
from lfl_jax.configs import uuid

from lfl_jax import main, train
from lfl_jax.config import Config
from lfl_jax.evals import inputs


def config(argument, **changes):
    c = uuid.get_config(argument)
    for name, value in changes.items():
        section, field = name.split("__")
        c[section][field] = value
    return Config.from_dict(c)


@pytest.mark.parametrize(
    ("argument", "kind", "rank", "lr"),
    [
        ("", "lora", 8, 1e-3),
        ("mora", "mora", 8, 1e-3),
        ("full", "none", None, 1e-4),
        ("full_linear", "none", None, 1e-4),
        ("mora_sharing1,r=4,lr=0.5", "mora_sharing1", 4, 0.5),
        ("paper", "lora", 8, 2e-4),
        ("paper,mora_sharing1", "mora_sharing1", 8, 1e-4),
        ("paper,full", "none", None, 3e-5),
        ("smoke,mora", "mora", 8, 1e-3),
    ],
)
def test_every_argument_gives_a_valid_config(argument, kind, rank, lr):
    c = config(argument)
    assert (c.adapter.kind, c.adapter.rank, c.optim.lr, c.data.source) == (kind, rank, lr, "uuid")


def test_an_unknown_argument_is_named():
    with pytest.raises(ValueError, match="unknown argument smok of configs/uuid.py"):
        uuid.get_config("smok")


def test_paper_is_the_protocol():
    c = config("paper")
    assert (c.model.name, c.data.size, c.train.batch, c.train.steps) == (
        "llama2-7b",
        10000,
        1000,
        1000,
    )
    assert c.train.steps * c.train.batch == 100 * c.data.size, "100 epochs, a pair a row"
    assert len(c.adapter.targets) == 7 and not c.data.uuid_hyphens


def test_the_training_pairs_are_what_is_recalled_at_the_end_and_on_the_way():
    c = config("smoke")
    found = [inputs.from_config(c, dev=dev).problems for dev in (False, True)]
    assert [list(groups) for groups in found] == [["train"], ["dev"]]
    assert found[0]["train"] == found[1]["dev"] and len(found[0]["train"]) == c.data.size


@pytest.mark.parametrize(
    "argument", [pytest.param("smoke,mora", marks=pytest.mark.slow), "smoke,full"]
)
def test_a_run_from_start_to_end(argument, tmp_path, capsys):
    main.execute(config(argument, log__tensorboard=False), tmp_path)
    assert "random UUID pairs, seed 0" in " ".join(capsys.readouterr().out.split())
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    looks = {line["step"]: line["dev/uuid_recall"] for line in lines if "dev/uuid_recall" in line}
    assert list(looks) == [0, 2, 4], "the base first"
    assert all(0 <= accuracy <= 1 for accuracy in looks.values())
    records = [
        json.loads(line)
        for line in (tmp_path / "evals/after/uuid_recall.jsonl").read_text().splitlines()
    ]
    assert [record["id"] for record in records[1:]] == [f"train/{i}" for i in range(4)]


@pytest.mark.slow
def test_full_finetuning_of_the_tiny_model_memorises(tmp_path):
    """One pair, a hundred steps: what is measured is what was trained on, digit by digit."""
    c = config(
        "smoke,full,lr=3e-3,steps=100",
        data__size=1,
        train__batch=1,
        log__tensorboard=False,
        eval__every=0,
    )
    after = train.run(train.Run(c, tmp_path)).after["uuid_recall"]
    assert (after.metrics["acc_char"].mean, after.metrics["whole"].mean) == (1.0, 1.0)
