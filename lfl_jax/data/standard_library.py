"""Python's own standard library, read where it is installed: a stand-in for a corpus of code.

Documents are its files. Functions are the pairs of signature with docstring, and body, that are in
them. A file is a cluster, and both sources hold out the same files.
"""

import ast
import functools
import hashlib
import platform
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from lfl_jax.data.examples import Example
from lfl_jax.data.splits import check, digest, split_index
from lfl_jax.errors import UserError

LICENCE = "PSF-2.0"
SKIPPED = {
    "test",
    "tests",
    "idlelib",
    "idle_test",
    "lib2to3",
    "site-packages",
    "dist-packages",
    "__pycache__",
    # Tables, most of them copies of each other.
    "encodings",
    "pydoc_data",
}
# Written when an interpreter is built: they differ between machines.
BUILD = ("config-", "_sysconfigdata")
DOCSTRING, BODY = (20, 2000), (10, 2000)  # characters, least and most, of what becomes a pair
INDENT = " " * 4


def describe(stand_in_for: str, n: int, unit: str) -> str:
    """The provenance line; unit: what is counted, in the plural."""
    version = platform.python_version()
    return f"a stand-in for {stand_in_for}: {n} {unit} of the standard library of Python {version}"


def home() -> Path:
    """Where this Python's standard library is."""
    return Path(sysconfig.get_paths()["stdlib"])


@functools.cache
def files() -> tuple[tuple[str, str], ...]:
    """(path inside the library, text) of every module, by path; files not in UTF-8 are left out."""
    root, modules = home(), []
    # Sorted as text with forward slashes: the same order on every system.
    for path in sorted(root.rglob("*.py"), key=lambda p: p.relative_to(root).as_posix()):
        parts = path.relative_to(root).parts
        if SKIPPED & set(parts) or any(part.startswith(BUILD) for part in parts):
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        if text.strip():
            modules.append(("/".join(parts), text))
    if not modules:
        raise UserError(f"no Python files in {root}: this Python has no standard library to read")
    return tuple(modules)


def sha256() -> str:
    """Hash of all files, paths and texts."""
    digest_of_all = hashlib.sha256()
    for file in files():
        for text in file:
            digest_of_all.update(f"{len(text)}:{text}".encode())
    return digest_of_all.hexdigest()


def split_files(split: str) -> list[tuple[str, str]]:
    """The files of one split; UserError for an unknown one."""
    check(split, "the standard library")
    modules = files()
    index = split_index([digest(name) for name, _ in modules], split)
    return [modules[i] for i in index]


def documents(split: str) -> list[Example]:
    """Files without a prompt."""
    return [Example("", text, id=name, cluster=name) for name, text in split_files(split)]


@functools.cache
def functions(split: str) -> list[Example]:
    """Pairs of a split: the prompt ends with the docstring, the response is the body after it."""
    return [example for name, text in split_files(split) for example in functions_of(name, text)]


def functions_of(name: str, text: str) -> list[Example]:
    """The pairs of one file, in its order, methods included, each moved to the left margin."""
    try:
        tree = ast.parse(text)
    except SyntaxError:  # templates of other tools
        return []
    lines = text.splitlines()
    nodes = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    nodes.sort(key=lambda node: node.lineno)
    return [example for node in nodes for example in _pair(node, name, lines)]


def _pair(
    node: ast.FunctionDef | ast.AsyncFunctionDef, name: str, lines: list[str]
) -> Iterator[Example]:
    """The pair of a function with a docstring and a body of fitting lengths; else nothing."""
    docstring = ast.get_docstring(node, clean=False) or ""
    has_docstring = DOCSTRING[0] <= len(docstring) <= DOCSTRING[1]
    if not has_docstring or len(node.body) < 2 or not _does_something(node.body[1:]):
        return

    # Pairs are cut between lines, so that docstring and body must each begin on one of their own.
    start, end, last = node.lineno - 1, node.body[0].end_lineno, node.body[-1].end_lineno
    if end is None or last is None:
        return
    if node.body[0].lineno == node.lineno or node.body[1].lineno <= end:
        return

    signature = "\n".join(_moved(line, node) for line in lines[start:end])
    body = "\n".join(_moved(line, node) for line in lines[end:last]).strip("\n")
    if BODY[0] <= len(body) <= BODY[1] and body.startswith(INDENT):
        yield Example(f"{signature}\n", body, id=f"{name}:{node.lineno}", cluster=name)


def _does_something(body: list[ast.stmt]) -> bool:
    return not all(isinstance(statement, ast.Pass | ast.Raise) for statement in body)


def _moved(line: str, node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """The line moved left by the function's indent; text inside strings may have less of it."""
    outer = line[: node.col_offset]
    return line if outer.strip() else line[node.col_offset :].rstrip()
