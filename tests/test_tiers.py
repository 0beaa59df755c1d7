"""Who may import whom: DESIGN's tiers, read from the source, and what a process pays for an
import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lfl_jax"

TIERS = {
    0: (
        "statistics",
        "core",
        "quant",
        "assets",
        "config",
        "errors",
        "notices",
        "configs",
        "third_party",
    ),
    1: ("kernels", "text"),
    2: ("adapters",),
    3: ("model", "models"),
    4: ("losses", "optim", "schedules", "data", "io"),
    5: ("state", "sample", "run_setup"),
    6: ("evals", "analysis"),
    7: ("penalties", "train", "train_log", "train_setup", "train_step"),
    8: ("studies", "report", "planning", "lab_base"),
    9: (
        "api",
        "main",
        "study",
        "compare",
        "evaluate",
        "evaluate_variants",
        "analyze",
        "analyze_runs",
        "analyze_subjects",
        "export",
        "plan",
        "doctor",
        "proofs",
        "fetch",
        "inspect_data",
        "__main__",
    ),
}
TIER = {unit: tier for tier, units in TIERS.items() for unit in units}
APART = 4  # units of this tier do not even import each other

PEERS = {"torch", "transformers", "peft"}
# Slow to import (0.2 s to 4 s) and needed by some commands only: imported inside the functions that
# use them.
HEAVY = {
    "antlr4",
    "grain",
    "gguf",
    "huggingface_hub",
    "lm_eval",
    "math_verify",
    "matplotlib",
    "orbax",
    "pyarrow",
    "reasoning_gym",
    "sentencepiece",
    "submitit",
    "sympy",
    "tensorboardX",
    "tensorflow_datasets",
    "tokenizers",
    "wandb",
}

MODULES = sorted(PACKAGE.rglob("*.py"))
CONFIGS = sorted((ROOT / "configs").rglob("*.py"))


def name(file):
    return file.relative_to(ROOT).as_posix()


def imports(nodes, file):
    """(line, dotted module) of every import among `nodes`; `from lfl_jax import x` counts as
    lfl_jax.x."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, (
                f"{name(file)}:{node.lineno} relative import: write it from lfl_jax on"
            )
            names = [alias.name for alias in node.names]
            yield from ((node.lineno, f"{node.module}.{each}") for each in names)


def everywhere(file):
    return imports(ast.walk(ast.parse(file.read_text())), file)


def at_import(file):
    """Imports that run when the module is imported: all but those inside functions and for type
    checkers."""

    def later(node):
        for_types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        return for_types or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))

    def outside_functions(node):
        for child in ast.iter_child_nodes(node):
            if not later(child):
                yield child
                yield from outside_functions(child)

    return imports(outside_functions(ast.parse(file.read_text())), file)


def unit(file):
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def top(module):
    return module.split(".")[0]


@pytest.mark.parametrize("file", MODULES, ids=name)
def test_imports_go_down_the_tiers(file):
    own = unit(file)
    if own == "__init__":
        at_the_top = list(imports(ast.parse(file.read_text()).body, file))
        assert {module for _, module in at_the_top} <= {"typing.Any"}, "`import lfl_jax` is free"
        return
    assert own in TIER, f"lfl_jax/{own} has no tier: give it one in DESIGN and here"
    for line, module in everywhere(file):
        if top(module) != "lfl_jax":
            continue
        other = module.split(".")[1]
        assert other in TIER, f"{name(file)}:{line} imports {module}, which has no tier"
        below = TIER[other] < TIER[own] or (TIER[other] == TIER[own] != APART)
        tiers = f"tier {TIER[own]} imports tier {TIER[other]}"
        assert other == own or below, (
            f"{name(file)}:{line} imports {module}, {tiers}: imports go down only"
        )


@pytest.mark.parametrize("file", MODULES, ids=name)
def test_peers_are_never_imported(file):
    found = [(line, module) for line, module in everywhere(file) if top(module) in PEERS]
    assert not found, (
        f"{name(file)}: {found}: the package runs without torch, transformers and peft"
    )


@pytest.mark.parametrize("file", MODULES, ids=name)
def test_heavy_libraries_are_imported_where_they_are_used(file):
    found = [(line, module) for line, module in at_import(file) if top(module) in HEAVY]
    assert not found, f"{name(file)}: {found}: move these into the functions that use them"


@pytest.mark.parametrize("file", sorted((PACKAGE / "data").rglob("*.py")), ids=name)
def test_data_never_touches_a_device(file):
    found = [
        (line, module)
        for line, module in everywhere(file)
        if top(module) in ("jax", "jaxlib", "flax")
    ]
    assert not found, (
        f"{name(file)}: {found}: data/ works on numpy; process index and count are arguments"
    )


@pytest.mark.parametrize("file", CONFIGS, ids=name)
def test_configs_import_ml_collections_and_base_only(file):
    for line, module in everywhere(file):
        allowed = top(module) in ("ml_collections", *sys.stdlib_module_names)
        assert allowed or module.startswith("lfl_jax.configs"), (
            f"{name(file)}:{line} imports {module}"
        )


def test_the_rules_see_every_form_of_import(tmp_path):
    """The checks above are only as good as what `imports` finds."""
    file = tmp_path / "module.py"
    file.write_text(
        "import a.b\nfrom lfl_jax import c\nfrom lfl_jax.d import e as f\n"
        "def g():\n    import h\nif TYPE_CHECKING:\n    import i\n"
    )
    assert sorted(module for _, module in everywhere(file)) == [
        "a.b",
        "h",
        "i",
        "lfl_jax.c",
        "lfl_jax.d.e",
    ]
    assert [module for _, module in at_import(file)] == ["a.b", "lfl_jax.c", "lfl_jax.d.e"]


def python(code):
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    return run.stdout


# 0.1 to 0.7 s each, or more: what a command says of itself, and of a mistake in its flags, waits for
# none of them.
SLOW = HEAVY | {"flax", "grain", "jax", "optax", "pandas", "scipy"}


def test_importing_the_package_is_free():
    """It waits for nothing but Python's own modules."""
    code = (
        "import sys; before = set(sys.modules); import lfl_jax; print(*set(sys.modules) - before)"
    )
    imported = {top(module) for module in python(code).split()}
    assert imported - sys.stdlib_module_names == {"lfl_jax"}


ENTRY_POINTS = [each.stem for each in PACKAGE.glob("*.py") if "    entry(main" in each.read_text()]


@pytest.mark.parametrize("entry", ENTRY_POINTS)
def test_help_does_not_pay_for_slow_libraries(entry):
    code = f"""
import contextlib, io, runpy, sys
sys.argv = ["{entry}", "--help"]
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as page:
    runpy.run_module("lfl_jax.{entry}", run_name="__main__")
print(sorted({SLOW!r} & set(sys.modules)), len(page.getvalue()) > 100)
"""
    assert python(code) == "[] True\n"
