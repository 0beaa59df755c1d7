"""How the package reads, in figures that may not get worse: names, lines, types, comments.

A figure is no taste: it finds the place where a reader stops. Where one is passed with a reason, the
reason stands in the exemption below.
"""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lfl_jax"
FILES = {path.relative_to(PACKAGE).as_posix(): path.read_text() for path in PACKAGE.rglob("*.py")}
TREES = {name: ast.parse(text) for name, text in FILES.items()}

WIDTH = 100
MOST_NAMES = 12
# Words that say nothing of what a name holds.
VAGUE = {
    *("found", "made", "kept", "place", "placed", "held", "here", "each", "shown", "told", "said"),
    *("things", "stuff", "tmp"),
}
# The one loop that is read from top to bottom.
MAY_HAVE_MANY_NAMES = {"train.py:run"}
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def functions(tree):
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def own_nodes(function):
    """Nodes of a function without those of functions inside of it."""
    for child in ast.iter_child_nodes(function):
        if not isinstance(child, (ast.FunctionDef, ast.Lambda)):
            yield child
            yield from own_nodes(child)


def local_names(function):
    stored = (node for node in own_nodes(function) if isinstance(node, ast.Name))
    return {node.id for node in stored if isinstance(node.ctx, ast.Store)}


def everywhere():
    """(file:function, function) of the whole package."""
    return [(f"{name}:{f.name}", f) for name, tree in TREES.items() for f in functions(tree)]


def test_no_line_is_wider_than_the_page():
    wide = [
        f"{name}:{number}"
        for name, text in FILES.items()
        for number, line in enumerate(text.splitlines(), 1)
        if len(line) > WIDTH
    ]
    assert not wide


def test_a_function_binds_at_most_twelve_names():
    many = [where for where, f in everywhere() if len(local_names(f)) > MOST_NAMES]
    assert set(many) <= MAY_HAVE_MANY_NAMES


def test_names_say_what_they_hold():
    vague = {where: local_names(f) & VAGUE for where, f in everywhere()}
    bound = sum(len(local_names(f)) for _, f in everywhere())
    count = sum(map(len, vague.values()))
    assert count < 0.005 * bound, {where: names for where, names in vague.items() if names}


def test_parameters_have_types_that_say_something():
    typed = said = 0
    for _, f in everywhere():
        arguments = [*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs]
        annotations = [a.annotation for a in arguments if a.arg not in ("self", "cls")]
        typed += len(annotations)
        said += sum(a is not None and ast.unparse(a) != "Any" for a in annotations)
    assert said > 0.95 * typed


def test_reasons_stand_where_a_reader_stops():
    lines = [line for text in FILES.values() for line in text.splitlines()]
    comments = sum(line.lstrip().startswith("#") or "  # " in line for line in lines)
    assert comments > 0.04 * len(lines)


def packed(statement):
    simple = isinstance(statement, (ast.Assign, ast.Return, ast.Expr))
    return simple and sum(isinstance(n, COMPREHENSIONS) for n in ast.walk(statement)) > 1


def test_a_statement_holds_one_comprehension():
    several = [
        f"{name}:{node.lineno}"
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if packed(node)
    ]
    assert not several


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_file_has_at_most_four_hundred_lines(name):
    assert len(FILES[name].splitlines()) <= 400


def test_the_checks_see_what_they_look_for():
    code = "def f(x):\n    found = [a for a in [b for b in x]]\n    def g():\n        tmp = 1\n"
    (outer, inner) = functions(ast.parse(code))
    assert local_names(outer) == {"found", "a", "b"} and local_names(inner) == {"tmp"}
    assert packed(outer.body[0])
