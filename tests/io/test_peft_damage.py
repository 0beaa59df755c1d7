"""Damaged PEFT folders, drawn at random, are never more than a UserError."""

import json
import random
import re

import pytest
from peft_folders import write

from lfl_jax.errors import UserError
from lfl_jax.io import peft
from lfl_jax.io.peft import fields, modules
from lfl_jax.io.peft.read import KINDS

JUNK = [
    None, True, -1, 0, 3, 10**12, 10**400, 1.5, -0.0, float("nan"), float("inf"), 1e308, "", "x", "\ud800", "(", ".*",
    "all-linear", "q_proj", "\x00", [], ["q_proj"], [""], [0], [[]], [None], {}, {"": 1}, {"q_proj": 1}, {"(": 2},
    {"a": {}},
]  # fmt: skip
KNOWN = set().union(*(kind.READ | kind.IGNORED for kind in KINDS.values()))
FIELDS = sorted(KNOWN | fields.PROVENANCE | set(fields.ADVICE) | {"new"})


def flip(rng, data, end):
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        data[rng.randrange(max(1, min(end, len(data))))] = rng.randrange(256)
    return bytes(data)


def damage_config(rng, text):
    way = rng.randrange(5)
    if way == 0:
        return flip(rng, text, len(text))
    if way == 1:
        return text[: rng.randrange(len(text))]
    config = json.loads(text)
    for _ in range(rng.choice([1, 1, 2, 3])):
        if way == 2 and config:
            config.pop(rng.choice(sorted(config)))
        else:
            config[rng.choice(FIELDS)] = rng.choice(JUNK)
    return json.dumps(config).encode("utf-8", "surrogatepass")


def damage_tensors(rng, data):
    size = 8 + int.from_bytes(data[:8], "little")
    way = rng.randrange(5)
    if way == 0:
        return flip(rng, data, size)
    if way == 1:
        return flip(rng, data, len(data))
    if way == 2:
        return data[: rng.randrange(len(data))]
    header = data[8:size].decode()
    if way == 3:  # one number of the header: a shape, an offset
        number = rng.choice(list(re.finditer(r"\d+", header)))
        header = (
            header[: number.start()]
            + str(rng.choice([0, 1, 2, 2**31, 10**12, 2**64]))
            + header[number.end() :]
        )
    else:
        old, new = rng.choice(
            [("F32", "F16"), ("F32", "BF16"), ("F32", "I8"), ("lora_A", "lora_B"), ("0", "1")]
        )
        header = header.replace(old, new, rng.choice([1, 1, -1]))
    return len(header.encode()).to_bytes(8, "little") + header.encode() + data[size:]


def fuzz(saved, params, folder, count):
    """How many damaged folders loaded, and how many were refused; anything else fails, with its
    number."""
    files = {}
    for kind, (config, tensors) in saved.items():
        more = (
            {"lora_dropout": 0.1, "rank_pattern": {"v_proj": 2}}
            if config["peft_type"] == "LORA"
            else {}
        )
        write(folder, config | more, tensors)
        files[kind] = [
            (folder / name).read_bytes() for name in (modules.CONFIG, "adapter_model.safetensors")
        ]
    outcomes = {"loaded": 0, "refused": 0}
    for number in range(count):
        rng = random.Random(number)
        config, tensors = files[rng.choice(sorted(files))]
        if rng.random() < 0.6:
            config = damage_config(rng, config)
        else:
            tensors = damage_tensors(rng, tensors)
        (folder / modules.CONFIG).write_bytes(config)
        (folder / "adapter_model.safetensors").write_bytes(tensors)
        try:
            peft.load(folder, params)
            outcomes["loaded"] += 1
        except UserError as error:
            outcomes["refused"] += len(str(error)) < 1500
        except BaseException as error:
            error.add_note(f"damage number {number}: {config[:500]!r}")
            raise
    return outcomes


@pytest.mark.parametrize("count", [250, pytest.param(10_000, marks=pytest.mark.slow)])
def test_damage_is_a_user_error_or_harmless(count, saved, small_params, tmp_path):
    outcomes = fuzz(saved, small_params, tmp_path, count)
    assert sum(outcomes.values()) == count, "a message is too long"
    assert outcomes["loaded"] > count // 20 and outcomes["refused"] > count // 3, outcomes
