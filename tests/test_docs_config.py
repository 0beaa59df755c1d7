"""docs/config.md lists every field of configs/base.py with its default and comment."""

import importlib.util
import re
from pathlib import Path

from lfl_jax.configs import base

from lfl_jax.config import values

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "config.md").read_text("utf-8")


def fields():
    spec = importlib.util.spec_from_file_location("docs_fields", DOCS / "fields.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_current():
    assert fields().page() == PAGE, "python docs/fields.py writes it"


def test_every_field_is_there_with_a_default_and_most_with_words():
    rows = re.findall(
        r"^\| `(\w+)` \| `(.*?)` \| (.*) \|$", PAGE.partition(fields().MARK)[2], re.MULTILINE
    )
    names = [field.rpartition(".")[2] for field in values.all_fields()]
    assert sorted(row[0] for row in rows) == sorted(names)
    assert sum(not row[2] for row in rows) <= 8, "fields whose name says all"
    assert (
        isinstance(base.base().optim.lr, float)
        and "| `lr` | `0.001` | peak learning rate |" in PAGE
    )
