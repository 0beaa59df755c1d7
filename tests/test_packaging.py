"""What is installed is what is here: packages, requirements, configs, manifest; and the scripts
run."""

import ast
import configparser
import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from fake_commands import Checkout

ROOT = Path(__file__).parents[1]
MAPPED = {"lfl_jax.configs": "configs", "lfl_jax.third_party": "third_party"}
SCRIPTS = [ROOT / "check.sh", ROOT / ".ci" / "run", *sorted((ROOT / "launch").glob("*.s[hb]*"))]


@pytest.fixture(scope="module")
def setup():
    read = configparser.ConfigParser()
    read.read(ROOT / "setup.cfg")
    return read


def lines(text):
    """The entries of a list in setup.cfg, without its comments."""
    return [
        line.strip()
        for line in text.splitlines()
        if line.strip() and not line.strip().startswith("#")
    ]


def requirement_name(line):
    return line.split("[")[0].split(">")[0].split("=")[0].strip().lower().replace("_", "-")


def test_every_package_is_listed(setup):
    folders = {("lfl_jax", "lfl_jax"), *MAPPED.items()}
    found = set()
    for package, folder in folders:
        for file in (ROOT / folder).rglob("*.py"):
            inside = file.parent.relative_to(ROOT / folder).parts
            found.add(".".join((package, *inside)))
            assert (file.parent / "__init__.py").exists(), f"{file.parent} lacks an __init__.py"
    listed = lines(setup["options"]["packages"])
    assert listed == sorted(listed)
    assert set(listed) == found, "correct `packages` in setup.cfg"


def imported_modules(*patterns):
    """The top of every absolute import in these files, but for the standard library and our own."""
    modules = set()
    # Files beside it, which the sandbox's child imports as scripts do.
    beside = {file.stem for file in (ROOT / "lfl_jax/evals/sandbox").glob("*.py")}
    for file in (file for pattern in patterns for file in ROOT.glob(pattern)):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                modules.add(node.module.split(".")[0])
    return modules - set(sys.stdlib_module_names) - OURS - beside


OURS = {"lfl_jax"} | {place.stem for place in (ROOT / "tests").rglob("*")}
PACKAGE_FILES = ("lfl_jax/**/*.py", "configs/**/*.py")
TEST_FILES = ("tests/**/test_*.py", "tests/**/conftest.py", "tests/helpers.py")


@pytest.mark.parametrize(
    ("files", "extras"),
    [
        (PACKAGE_FILES, "tfds gym eval plots math wandb slurm"),
        (TEST_FILES, "tfds gym eval plots math wandb slurm test"),
    ],
)
def test_every_import_is_a_declared_requirement(setup, files, extras):
    declared = lines(setup["options"]["install_requires"])
    declared += [
        line for extra in extras.split() for line in lines(setup["options.extras_require"][extra])
    ]
    names = {requirement_name(line) for line in declared}
    distributions = importlib.metadata.packages_distributions()
    for module in imported_modules(*files):
        origins = {name.lower().replace("_", "-") for name in distributions.get(module, [module])}
        assert origins & names, (
            f"{module} ({', '.join(origins)}) is imported but not declared in setup.cfg"
        )


def test_extras_are_the_promised_ones(setup):
    assert {"cuda12", "tpu", "test", "eval", "peers"} <= set(setup["options.extras_require"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the wheel of this checkout installed; built from a copy, so no build/ is left
    here."""
    pytest.importorskip("setuptools", "77", reason="building needs setuptools 77 (extra test)")
    folder = tmp_path_factory.mktemp("packaging")
    copy = folder / "checkout"
    for name in ("lfl_jax", *MAPPED.values()):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "LICENSE", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, copy / name)
    pip("wheel", "--no-build-isolation", "--wheel-dir", folder, copy)
    (wheel,) = folder.glob("*.whl")
    pip("install", "--no-index", "--target", folder / "site", wheel)
    return folder / "site"


def pip(*arguments):
    command = [
        sys.executable,
        "-m",
        "pip",
        "--quiet",
        "--disable-pip-version-check",
        *map(str, arguments),
    ]
    run = subprocess.run([*command, "--no-deps"], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr + run.stdout


def installed(site, cwd, *arguments):
    """Run Python elsewhere with the installed wheel. -S: no .pth files, so no editable install
    instead."""
    path = os.pathsep.join([str(site), sysconfig.get_path("purelib")])
    environment = os.environ | {
        "PYTHONPATH": path,
        "LFL_CACHE": str(cwd / "cache"),
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, "-S", *arguments]
    run = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_the_wheel_lists_the_manifest_from_anywhere(site, tmp_path):
    listed = installed(site, tmp_path, "-m", "lfl_jax.fetch", "--list")
    assert "smollm2-135m" in listed
    assert "evals = " in listed


def test_the_wheel_has_every_config_and_each_loads(site, tmp_path):
    code = """
import importlib, pathlib, sys
import lfl_jax.configs
folder = pathlib.Path(lfl_jax.configs.__path__[0])
arguments = {"from_run": [sys.argv[2]]}
assert folder.is_relative_to(sys.argv[1]), folder
for file in sorted(folder.rglob("*.py")):
    dotted = ".".join(("lfl_jax", "configs", *file.relative_to(folder).with_suffix("").parts))
    module = importlib.import_module(dotted.removesuffix(".__init__"))
    if hasattr(module, "get_config"):
        module.get_config(*arguments.get(file.stem, ()))
        print(file.relative_to(folder).as_posix())
"""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"config": {"train": {"steps": 3}}}')
    loaded = installed(site, tmp_path, "-c", code, str(site), str(tmp_path / "run")).split()
    here = [
        file for file in (ROOT / "configs").rglob("*.py") if "def get_config" in file.read_text()
    ]
    assert loaded == sorted(file.relative_to(ROOT / "configs").as_posix() for file in here)
    assert loaded


def test_the_wheel_carries_every_module_and_the_licence(site):
    here = {file.relative_to(ROOT).as_posix() for file in (ROOT / "lfl_jax").rglob("*.py")}
    there = {file.relative_to(site).as_posix() for file in (site / "lfl_jax").rglob("*.py")}
    assert here <= there
    assert list(site.glob("lfl_jax-*.dist-info/**/LICENSE"))
    assert not (site / "tests").exists()
    assert not (site / "configs").exists(), "configs belong inside the package, not beside it"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_scripts_are_bash_without_mistakes(script):
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
    text = script.read_text()
    if script.name == "common.sh":  # only ever sourced, by scripts that say so themselves
        return
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "exec bash check.sh" in text or "set -euo pipefail" in text


@pytest.mark.parametrize("file", ["launch/quickstart.sh", "check.sh"])
def test_an_unsupported_python_is_refused_in_one_line(tmp_path, file):
    checkout = Checkout.make(tmp_path)
    run = checkout.run(file, PYTHON="/bin/false")
    assert run.returncode == 2
    assert (
        run.stderr
        == "error: /bin/false is not a Python 3.11, 3.12 or 3.13; " + run.stderr.split("; ")[1]
    )
    assert len(run.stderr.splitlines()) == 1
    assert not list(tmp_path.glob(".venv*"))


def test_continuous_integration_calls_check_and_nothing_else(tmp_path):
    checkout = Checkout.make(tmp_path)
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci")
    (tmp_path / "check.sh").write_text('echo "checked in $(pwd) with $*"')
    run = checkout.run(".ci/run", "-k", "x")
    assert run.stdout == f"checked in {tmp_path} with -k x\n"
