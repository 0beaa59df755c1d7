"""What README shows must run."""

import re
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def test_the_code_in_readme_runs():
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.S)
    names = {}
    exec(code, names)
    assert names["hidden"].shape == (2, 8, 64) and names["merged"].keys() == names["params"].keys()


def test_the_two_commands_are_there():
    text = README.read_text()
    assert "bash launch/quickstart.sh" in text and "bash check.sh" in text
