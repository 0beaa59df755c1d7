"""contamination.json of a run: written once, and again where it is damaged."""

import pytest

from lfl_jax.analysis import contamination
from lfl_jax.errors import UserError

REPORT = {"tasks": {"gsm8k": {"items": 2, "ngrams": ["a"]}}, "source": {}}


def test_a_report_is_written_once(tmp_path):
    contamination.write(tmp_path, lambda: REPORT)
    contamination.write(tmp_path, lambda: pytest.fail("looked for again"))
    assert contamination.read(tmp_path) == {"gsm8k": {"a"}}


@pytest.mark.parametrize("content", ["", '{"tasks": {"gsm', "[]", "{}", '{"tasks": {"gsm8k": 3}}'])
def test_a_damaged_report_is_a_line_for_readers_and_written_again_by_the_run(tmp_path, content):
    (tmp_path / contamination.FILE).write_text(content)
    with pytest.raises(UserError, match=r"contamination\.json: "):
        contamination.read(tmp_path)
    contamination.write(tmp_path, lambda: REPORT)
    assert contamination.read(tmp_path) == {"gsm8k": {"a"}}
