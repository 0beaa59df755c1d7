"""Sphinx builds the site of these pages: docs/install.md has the command.

Sphinx with MyST, as JAX, Flax and Optax have it: it checks links to files and headings, and runs
the notebook while it builds.
"""

import inspect
import re
from importlib.metadata import version as installed

project, author, version = "lfl_jax", "the lfl_jax authors", installed("lfl_jax")
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
html_theme = "furo"
html_title = f"lfl_jax {version}"
exclude_patterns = ["fields.py", "verdicts.py", "conf.py"]

# Markdown. Anchors are GitHub's, so that links work there too.
myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3

# The notebook is a script in the percent format, run anew with every build.
nb_custom_formats = {".py": ["jupytext.reads", {"fmt": "py:percent"}]}
nb_execution_mode = "force"
nb_execution_timeout = 900
nb_execution_raise_on_error = True
nb_merge_streams = True

# Docstrings
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "undoc-members": False, "show-inheritance": False}


def as_written(app, what, name, obj, options, lines: list[str]) -> None:
    """Show a docstring with its line breaks: they are plain text, no reStructuredText."""
    text = inspect.cleandoc("\n".join(lines)).strip()
    if text:
        lines[:] = [line and f"| {escaped(line)}" for line in text.splitlines()] + [""]


def escaped(line: str) -> str:
    """A line in which reStructuredText finds no markup but `code`; its indentation stays."""
    text = line.lstrip()
    pieces = re.split(r"`([^`]+)`", text)  # every second one is code
    pieces[::2] = [re.sub(r"([\\*`|_])", r"\\\1", piece) for piece in pieces[::2]]
    pieces[1::2] = [f"\\ ``{piece}``\\ " for piece in pieces[1::2]]
    return "\N{NO-BREAK SPACE}" * (len(line) - len(text)) + "".join(pieces)


def setup(app) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", as_written)
