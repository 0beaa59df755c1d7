"""How a process learns about the others: flags, then variables, then the cluster; and values in a
single process."""

import os
import re

import jax
import numpy as np
import pytest

from lfl_jax.config.command_line import DISTRIBUTED
from lfl_jax.core import cluster, hosts, one_process, rendezvous
from lfl_jax.core.lifeline import Lifeline
from lfl_jax.errors import UserError

ALONE = {name: default for name, (default, _) in DISTRIBUTED.items()}
KNOWN = (
    "LFL_",
    "SLURM_",
    "OMPI_",
    "JAX_LOCAL_",
    "JAX_COORDINATOR",
    "MASTER_",
    "LOCAL_",
    "RANK",
    "WORLD_SIZE",
)


@pytest.fixture
def joined(monkeypatch):
    """Calls of jax.distributed.initialize, which does nothing here."""
    for name in list(os.environ):
        if name.startswith(KNOWN):
            monkeypatch.delenv(name)
    calls = []
    monkeypatch.setattr(
        jax.distributed, "initialize", lambda *where, **how: calls.append((where, how))
    )
    monkeypatch.setattr(rendezvous, "meet", lambda *where: Lifeline(0, 1))
    return calls


def start(**options):
    cluster.start(ALONE | options)


def test_alone_nothing_is_joined(joined):
    with hosts.joined(ALONE):
        assert not joined
    assert (
        hosts.gather("value") == ["value"]
        and hosts.agree({"a": 1}) == {"a": 1}
        and hosts.is_first()
    )
    hosts.require_same({"steps": 3})
    x = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(
        hosts.to_numpy(hosts.to_devices(x, jax.sharding.SingleDeviceSharding(jax.devices()[0]))), x
    )


def test_flags_go_before_variables(joined, monkeypatch):
    for name, value in {"COORDINATOR": "a:1", "PROCESSES": "4", "PROCESS_ID": "3"}.items():
        monkeypatch.setenv(f"LFL_{name}", value)
    start(distributed=True)
    start(coordinator="b:2", processes=8)
    assert [where for where, _ in joined] == [("a:1", 4, 3), ("b:2", 8, 3)]
    assert {how["cluster_detection_method"] for _, how in joined} == {"deactivate"}


def test_torchrun_tells_all(joined, monkeypatch):
    told = {"MASTER_ADDR": "n1", "MASTER_PORT": "29400", "WORLD_SIZE": "4", "RANK": "2"}
    for name, value in (told | {"LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "0"}).items():
        monkeypatch.setenv(name, value)
    start(distributed=True)
    ((where, how),) = joined
    assert where == ("n1:29401", 4, 2), "torchrun's own store has its port"
    assert how["local_device_ids"] == [0]


@pytest.mark.parametrize(
    ("variables", "devices"),
    [
        ({}, None),
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x4)", "SLURM_LOCALID": "0"}, []),
        ({"SLURM_STEP_TASKS_PER_NODE": "1", "SLURM_LOCALID": "0"}, []),
        ({"SLURM_STEP_TASKS_PER_NODE": "8(x4)", "SLURM_LOCALID": "3"}, None),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "0"}, []),
        ({"SLURM_STEP_TASKS_PER_NODE": "1", "JAX_LOCAL_DEVICE_IDS": "0,1"}, [0, 1]),
    ],
)
def test_a_process_that_has_its_host_alone_uses_all_its_devices(
    joined, monkeypatch, variables, devices
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    start(coordinator="a:1", processes=2, process_id=0)
    assert joined[0][1]["local_device_ids"] == devices


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"coordinator": "10.0.0.1"}, "--coordinator=10.0.0.1: expected HOST:PORT of process 0"),
        ({"processes": 2, "process_id": 2}, "--process_id=2 of --processes=2: ids go from 0 to 1"),
    ],
)
def test_mistakes_in_flags_are_said(joined, options, said):
    with pytest.raises(UserError, match=re.escape(said)):
        start(**options)


def test_a_variable_that_is_no_number_is_named(joined, monkeypatch):
    monkeypatch.setenv("LFL_PROCESSES", "two")
    with pytest.raises(UserError, match="LFL_PROCESSES='two': expected a number"):
        start(distributed=True)


def test_what_no_cluster_tells_is_asked_for(joined):
    with pytest.raises(
        UserError, match="no cluster .* also give --coordinator, --process_id, for example"
    ) as found:
        start(processes=2)
    assert "LFL_COORDINATOR, LFL_PROCESSES, LFL_PROCESS_ID" in str(found.value)


def test_what_a_cluster_tells_is_used_to_meet(joined, monkeypatch):
    """As srun sets it for the second of two nodes with all their devices each."""
    told = {
        "SLURM_JOB_ID": "70001",
        "SLURM_STEP_NODELIST": "n[3-4]",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": "1",
        "SLURM_LOCALID": "0",
        "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
        "SLURM_STEP_NUM_NODES": "2",
    }
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    met = []
    monkeypatch.setattr(rendezvous, "meet", lambda *where: met.append(where) or Lifeline(1, 2))
    start(distributed=True, join_timeout=7)
    ((coordinator, *others),) = met
    assert re.fullmatch(r"n3:\d+", coordinator) and others == [1, 2, 7]
    assert joined[0][0] == (coordinator, 2, 1) and joined[0][1]["local_device_ids"] == []


def test_what_jax_refuses_is_said_and_told(joined, monkeypatch):
    def initialize(*where, **how):
        raise RuntimeError("DEADLINE_EXCEEDED:\n timed out")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    told = []
    monkeypatch.setattr(Lifeline, "tell", lambda line, error, code: told.append((error, code)))
    with pytest.raises(
        UserError, match="process 1 of 2 could not join the others at a:1: DEADLINE_EXCEEDED: timed"
    ) as found:
        start(coordinator="a:1", processes=2, process_id=1)
    assert told == [(str(found.value), 2)]


def test_processes_that_would_do_different_things_are_refused(monkeypatch):
    monkeypatch.setattr(hosts, "agree", lambda value: {"steps": 3, "data": "abc"})
    with pytest.raises(
        UserError,
        match=re.escape("process 0 does not do what process 0 does: steps is 4, there 3."),
    ):
        hosts.require_same({"steps": 4, "data": "abc"})


@pytest.mark.parametrize(
    ("words", "variables", "asked"),
    [
        (["--run=r", "--distributed"], {}, "--distributed"),
        (["--coordinator=a:1", "--processes=2"], {}, "--coordinator=a:1"),
        ([], {"WORLD_SIZE": "2", "RANK": "1"}, "WORLD_SIZE=2"),
        ([], {"SLURM_STEP_NUM_TASKS": "4"}, "SLURM_STEP_NUM_TASKS=4"),
        ([], {"OMPI_COMM_WORLD_SIZE": "8"}, "OMPI_COMM_WORLD_SIZE=8"),
        ([], {"LFL_PROCESSES": "2"}, "LFL_PROCESSES=2"),
    ],
)
def test_a_command_of_one_process_is_refused_several(joined, monkeypatch, words, variables, asked):
    one_process.require_one("lfl_jax.export", ["--run=r", "--out=o"])
    monkeypatch.setenv("SLURM_NTASKS", "4")  # of the batch script, which srun has not multiplied
    monkeypatch.setenv("WORLD_SIZE", "1")
    one_process.require_one("lfl_jax.export", ["--run=r", "--out=o"])
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        UserError, match=rf"lfl_jax.export runs in one process, .* \({asked}\): start it once"
    ):
        one_process.require_one("lfl_jax.export", words)
