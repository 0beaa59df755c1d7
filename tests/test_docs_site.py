"""The site of README's pages builds with warnings as errors: links, headings, docstrings, notebook."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lfl_jax import assets

ROOT = Path(__file__).parents[1]
NEEDED = ("sphinx", "myst_nb", "jupytext", "ipykernel", "furo")  # extra docs
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=f"the extra docs is not installed: no {MISSING}")
@pytest.mark.skipif(not assets.is_cached("smollm2-135m"), reason="the notebook needs smollm2-135m")
def test_the_site_builds_without_a_warning(tmp_path):
    # Jupyter chooses the backend that puts figures into the page, unless a variable does.
    environment = {name: x for name, x in os.environ.items() if name != "MPLBACKEND"}
    command = (ROOT / "docs" / "install.md").read_text("utf-8")
    assert "python -m sphinx -W --keep-going -b html docs build/docs" in command
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-b", "html", "docs", tmp_path],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    notebook = (tmp_path / "notebooks" / "forgetting.html").read_text("utf-8")
    assert "general text" in notebook and "<img" in notebook
    assert "lfl_jax.adapters.compose.add" in (tmp_path / "genindex.html").read_text("utf-8")
