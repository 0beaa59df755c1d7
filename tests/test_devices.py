"""Meshes, batches and processes that do not fit each other, on meshes without devices."""

import dataclasses

import jax
import numpy as np
import pytest
from jax.sharding import Mesh
from lfl_jax.configs import base

from lfl_jax import notices
from lfl_jax.config import Config
from lfl_jax.core import hosts
from lfl_jax.core.sharding import MESH_AXES, Rules
from lfl_jax.errors import UserError
from lfl_jax.models.config import ModelConfig
from lfl_jax.run_setup import devices

SHAPE = ModelConfig(
    vocab_size=128, d_model=32, n_layers=2, n_heads=8, n_kv_heads=4, head_dim=4, d_ff=64
)


def config(mesh=(1, -1, 1), **changes):
    """The defaults with this mesh and these fields, named "section.field"."""
    values = base.base()
    values.adapter.rank = 4
    for name, size in zip(MESH_AXES, mesh, strict=True):
        values.mesh[name] = size
    for path, value in changes.items():
        section, field = path.split("__")
        values[section][field] = value
    return Config.from_dict(values)


def rules_on(monkeypatch, sizes, config, shape=SHAPE, **options):
    """(what `rules` returns on devices of these sizes, its warnings)."""
    mesh = Mesh(np.full(sizes, jax.devices()[0], dtype=object), MESH_AXES)
    monkeypatch.setattr(devices, "make_rules", lambda *_: Rules(mesh))
    with notices.collected() as warnings:
        return devices.rules(config, shape, **options), warnings


def test_a_config_that_fits_has_nothing_to_say(monkeypatch):
    fits = config((2, 2, 2), train__batch=8, train__microbatch=4, eval__rows=4)
    rules, warnings = rules_on(monkeypatch, (2, 2, 2), fits)
    assert rules.mesh.size == 8 and warnings == []
    assert rules_on(monkeypatch, (1, 1, 1), config())[1] == []


def test_heads_that_would_be_cut_are_refused(monkeypatch):
    with pytest.raises(UserError) as found:
        rules_on(monkeypatch, (1, 1, 8), config((1, 1, 8)))
    assert str(found.value) == (
        "config.mesh.tensor=8 does not divide this model's 4 key and value heads; it may be 1, 2, 4"
    )
    nine = dataclasses.replace(SHAPE, n_heads=9, n_kv_heads=3)
    with pytest.raises(UserError, match="9 query heads and 3 key and value heads; it may be 1, 3"):
        rules_on(monkeypatch, (1, 1, 2), config((1, 1, 2)), nine)


@pytest.mark.parametrize(
    ("mesh", "rows", "said", "times"),
    [
        ((4, 2, 1), {"train__batch": 6}, "config.train.batch=6 rows", 8),
        ((4, 2, 1), {"train__batch": 4}, "config.train.batch=4 rows", 2),
        ((2, 4, 1), {"train__batch": 16, "train__microbatch": 2}, "config.train.microbatch=2", 4),
    ],
)
def test_a_batch_that_cannot_be_split_is_refused_by_a_mesh_of_given_sizes(
    monkeypatch, mesh, rows, said, times
):
    with pytest.raises(UserError, match=f"{said} .*computed {times} times; set a multiple of 8"):
        rules_on(monkeypatch, mesh, config(mesh, **rows))


def test_a_batch_that_cannot_be_split_is_a_warning_where_a_size_is_open(monkeypatch):
    open_size = config(train__batch=1, eval__rows=1)
    _, warnings = rules_on(monkeypatch, (1, 8, 1), open_size)
    assert [text.partition(" cannot")[0] for text in warnings] == [
        "config.train.batch=1 rows",
        "config.eval.rows=1 rows",
    ]
    assert warnings[0].endswith("computed 8 times; set a multiple of 8, such as 8")
    # nothing trains where a model is evaluated
    _, warnings = rules_on(monkeypatch, (1, 8, 1), open_size, trains=False)
    assert len(warnings) == 1 and "config.eval.rows" in warnings[0]


def test_weights_that_are_not_shared_are_a_warning(monkeypatch):
    odd = dataclasses.replace(SHAPE, d_model=33, d_ff=66, vocab_size=130)
    fits = config((1, 2, 4), train__batch=2, eval__rows=2)
    _, warnings = rules_on(monkeypatch, (1, 2, 4), fits, odd)
    assert [text.partition(":")[0] for text in warnings] == [
        "config.mesh.fsdp=2 does not divide this model's d_model=33",
        "config.mesh.tensor=4 does not divide this model's d_ff=66",
        "config.mesh.tensor=4 does not divide this model's vocab_size=130",
    ]


def test_processes_with_different_configs_are_refused_by_field(monkeypatch):
    first = config(train__batch=2, data__path="/scratch/n1/data.jsonl")

    def refused(second):
        """What the second process says; None where it goes on."""
        sent = []
        monkeypatch.setattr(hosts, "agree", lambda values: sent.append(values) or values)
        devices.require_same_config(first)
        monkeypatch.setattr(hosts, "agree", lambda values: sent[0])
        devices.require_same_config(second)

    same = config(train__batch=2, data__path="/scratch/n2/data.jsonl", log__profile="1:2")
    refused(same)  # another folder, and one host is profiled
    with pytest.raises(UserError, match=r"config.train.batch is 4, there 2\. Every host"):
        refused(config(train__batch=4, data__path="/x"))
    # what a config's hash leaves out would hang just as well
    with pytest.raises(UserError, match="config.checkpoint.every is 7, there 20"):
        refused(config(data__path="/x", checkpoint__every=7))
    with pytest.raises(UserError, match=r"config.data.path is '', there 'a path of the host'"):
        refused(config(train__batch=2))
    with pytest.raises(UserError, match=r"config.trainable is \('params/.\*',\), there"):
        refused(dataclasses.replace(first, trainable=("params/.*",)))
