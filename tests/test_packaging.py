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
import textwrap
from pathlib import Path

import pytest

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
        (PACKAGE_FILES, "tfds gym eval plots math wandb"),
        (TEST_FILES, "tfds gym eval plots math wandb test"),
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
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "exec bash check.sh" in text or "set -euo pipefail" in text


STUB = """#!/usr/bin/env bash
echo "$(basename "$0") $*" >> "$LOG"
if [[ "$*" == "-m venv "* ]]; then
    for last; do :; done
    mkdir -p "$last/bin" && cp "$0" "$last/bin/python"
fi
"""


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout with only the scripts, and a PATH where python3, srun, ... log how they are
    called."""
    shutil.copytree(ROOT / "launch", tmp_path / "launch")
    shutil.copy(ROOT / "check.sh", tmp_path)
    (tmp_path / "bin").mkdir()
    for name in ("python3", "srun", "gcloud", "git", "nvidia-smi"):
        (tmp_path / "bin" / name).write_text(STUB)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    monkeypatch.delenv("PYTHON", raising=False)
    return tmp_path


def script(checkout, file, *arguments):
    return subprocess.run(
        ["bash", file, *arguments], cwd=checkout, capture_output=True, text=True, timeout=60
    )


def calls(checkout):
    return [line for line in (checkout / "log").read_text().splitlines() if " -c " not in line]


def test_quickstart_installs_fetches_and_runs(checkout):
    run = script(checkout, "launch/quickstart.sh", "--config.optim.steps=3")
    assert run.returncode == 0, run.stderr
    made, installed, fetched, ran = [
        line for line in calls(checkout) if not line.endswith("--version")
    ]
    assert made.endswith("-m venv .venv")
    assert installed.endswith("-e .[plots]")
    assert fetched == "python -m lfl_jax.fetch smollm2-135m evals"
    command = "python -m lfl_jax.main --config=configs/math_ift.py --workdir=runs/quickstart"
    assert ran == f"{command} --config.optim.steps=3"
    assert "4/4" in run.stdout
    script(checkout, "launch/quickstart.sh")
    assert len([line for line in calls(checkout) if "-m venv" in line]) == 1, (
        "the environment is made once"
    )


@pytest.mark.parametrize("file", ["launch/quickstart.sh", "check.sh"])
def test_an_unsupported_python_is_refused_in_one_line(checkout, monkeypatch, file):
    monkeypatch.setenv("PYTHON", "/bin/false")
    run = script(checkout, file)
    assert run.returncode == 2
    assert (
        run.stderr
        == "error: /bin/false is not a Python 3.11, 3.12 or 3.13; " + run.stderr.split("; ")[1]
    )
    assert len(run.stderr.splitlines()) == 1
    assert not list(checkout.glob(".venv*"))


def test_gpu_node_passes_its_arguments_on(checkout):
    assert (
        script(checkout, "launch/gpu_node.sh", "--config=c.py:paper", "--workdir=w").returncode == 0
    )
    assert calls(checkout)[-2].endswith("-e .[cuda12]")
    assert calls(checkout)[-1] == "python -m lfl_jax.main --config=c.py:paper --workdir=w"


def test_slurm_starts_one_process_per_task(checkout, monkeypatch):
    monkeypatch.setenv("SLURM_SUBMIT_DIR", str(checkout))
    assert script(checkout, "launch/slurm.sbatch", "--workdir=w").returncode == 0
    assert calls(checkout) == [
        "srun --kill-on-bad-exit=1 .venv/bin/python -m lfl_jax.main --distributed --workdir=w"
    ]


def test_gpu_node_passes_on_how_processes_find_each_other(checkout):
    joined = ("--distributed", "--coordinator=10.0.0.1:8476", "--processes=2", "--process_id=1")
    assert script(checkout, "launch/gpu_node.sh", "--workdir=w", *joined).returncode == 0
    assert calls(checkout)[-1] == f"python -m lfl_jax.main --workdir=w {' '.join(joined)}"


@pytest.mark.parametrize(
    ("nodes", "joined"), [(1, ""), (2, "10.0.0.1:8476 --processes=2 --process_id=1")]
)
def test_sky_tells_every_node_where_process_0_is(checkout, monkeypatch, nodes, joined):
    run = (checkout / "launch" / "sky.yaml").read_text().partition("\nrun: |\n")[2]
    (checkout / "run.sh").write_text("set -e\n" + textwrap.dedent(run))
    (checkout / ".venv" / "bin").mkdir(parents=True)
    shutil.copy(checkout / "bin" / "python3", checkout / ".venv" / "bin" / "python")
    told = {"NUM_NODES": nodes, "NODE_IPS": "10.0.0.1\n10.0.0.2", "NODE_RANK": 1}
    for name, value in told.items():
        monkeypatch.setenv(f"SKYPILOT_{name}", str(value))
    monkeypatch.setenv("ARGS", "--config=c.py --workdir=w")
    done = script(checkout, "run.sh")
    assert done.returncode == 0, done.stderr
    flags = f" --distributed --coordinator={joined}" if joined else ""
    assert (
        calls(checkout)[-1].rstrip() == f"python -m lfl_jax.main --config=c.py --workdir=w{flags}"
    )


def test_tpu_pod_runs_the_command_on_every_worker(checkout, monkeypatch):
    monkeypatch.setenv("TPU", "pod")
    monkeypatch.setenv("ZONE", "zone-a")
    run = script(checkout, "launch/tpu_pod.sh", "--config=c.py", "--config.data.path=my file.jsonl")
    assert run.returncode == 0, run.stderr
    log = (checkout / "log").read_text()
    assert "gcloud compute tpus tpu-vm ssh --zone=zone-a --worker=all pod" in log
    assert r"-m lfl_jax.main --distributed --config=c.py --config.data.path=my\ file.jsonl" in log
    monkeypatch.delenv("TPU")
    refused = script(checkout, "launch/tpu_pod.sh")
    assert refused.returncode != 0
    assert "set TPU to the name of a TPU VM" in refused.stderr


def test_continuous_integration_calls_check_and_nothing_else(checkout):
    (checkout / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", checkout / ".ci")
    (checkout / "check.sh").write_text('echo "checked in $(pwd) with $*"')
    run = script(checkout, ".ci/run", "-k", "x")
    assert run.stdout == f"checked in {checkout} with -k x\n"
