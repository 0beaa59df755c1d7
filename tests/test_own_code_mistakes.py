"""Mistakes in objects of one's own are one line, and said before anything is loaded."""

import dataclasses

import pytest
from lfl_jax.configs import math_ift

from lfl_jax import main, optim, schedules
from lfl_jax.config import Config, command_line, own_code
from lfl_jax.data import sources
from lfl_jax.errors import UserError
from lfl_jax.run_setup import base_model


def find(text, field, name, accepts=callable, tmp_path=None):
    file = tmp_path / "it.py"
    file.write_text(text)
    return own_code.find(own_code.allowing([file]), field, f"{file}:{name}", accepts)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def other():\n    pass\n", "has no it; it has other$"),
        (
            "it = 3\n",
            "optim.name: it of .*it.py is a int; expected a function of config.optim that returns"
            " an optax",
        ),
        ("x = 1\nit = y\n", "it.py, line 2: NameError: name 'y' is not defined$"),
        ("def it(:\n", "it.py, line 1: SyntaxError"),
    ],
)
def test_mistakes_in_a_file_are_one_line(text, message, tmp_path):
    with pytest.raises(UserError, match=message) as error:
        find(text, "optim.name", "it", tmp_path=tmp_path)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_and_an_object_that_was_passed_before(tmp_path):
    code = own_code.allowing([tmp_path / "no.py"])
    with pytest.raises(UserError, match="there is no file"):
        own_code.find(code, "optim.name", f"{tmp_path}/no.py:it", callable)
    with pytest.raises(
        UserError, match=r"was passed as an object in Python; pass it again: own=lfl_jax.Own\(opt"
    ):
        own_code.find(code, "optim.name", "python:it", callable)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("optax.sgd(1.0)", "returns steps, which have the learning rate's minus already"),
        ("3", "returned a int, not a GradientTransformation"),
        ("optax.nothing()", "it.py, line 3: AttributeError"),
    ],
)
def test_an_optimizer_that_is_none(body, message, tmp_path):
    file = tmp_path / "it.py"
    file.write_text(f"import optax\ndef it(c):\n    return {body}\n")
    config = Config.from_dict(math_ift.get_config("smoke")).optim
    config = dataclasses.replace(config, name=f"{file}:it", code=own_code.allowing([file]))
    with pytest.raises(UserError, match=message):
        optim.make(config, schedules.make(config, 2))


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("[]", "at least one; got 0 of list"),
        ("3", "got int"),
        ("[1]", "got 1 of list"),
        ("no", "line 2: NameErr"),
    ],
)
def test_a_source_that_is_none(returned, message, tmp_path):
    file = tmp_path / "it.py"
    file.write_text(f"def it(**options):\n    return {returned}\n")
    data = dataclasses.replace(
        Config.from_dict(math_ift.get_config("smoke")).data, source=f"{file}:it"
    )
    with pytest.raises(UserError, match="is code in a file"):
        sources.open_source(data, "train", 0)
    with pytest.raises(UserError, match=message):
        sources.open_source(dataclasses.replace(data, code=own_code.allowing([file])), "train", 0)


def test_files_with_hashes_and_repeated_flags(tmp_path):
    assert own_code.Allowed.parse("a.py@0123abcdef") == own_code.Allowed("a.py", "0123abcdef")
    assert own_code.Allowed.parse("a@b.py") == own_code.Allowed("a@b.py")
    words = command_line.split(
        ["--allow_code=a.py", "--allow_code", "b.py,c.py"], command_line.CODE
    )
    assert words.flags == {"allow_code": "a.py,b.py,c.py"}


def test_a_module_is_made_once_and_objects_are_the_same(tmp_path):
    first, again = (
        find("class it: pass\n", "optim.name", "it", tmp_path=tmp_path) for _ in range(2)
    )
    assert first is again and first.__module__.startswith("lfl_jax_own_it_")
    assert own_code.place_of(first) == f"{tmp_path}/it.py:it"
    assert own_code.place_of(lambda: 0) == "python:function"


def test_an_optimizer_with_a_mistake_is_refused_before_anything_is_loaded(tmp_path, monkeypatch):
    (tmp_path / "it.py").write_text("def it(c):\n    return 3\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(base_model, "load", lambda *_: pytest.fail("the base is loaded"))
    with pytest.raises(UserError, match=r"it.py:it returned a int"):
        main.main(["x", "--config=math_ift:smoke", "--workdir=run", "--config.optim.name=it.py:it"])
    assert not (tmp_path / "run/config.json").exists()
