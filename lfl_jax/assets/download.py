"""Bring items that lie in wheels into the cache, through pip; `hub` is for hub repositories.

A download goes to a staging folder inside the cache, is verified there, and reaches its place by
one rename: nothing is ever half-written.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from lfl_jax.assets import cache
from lfl_jax.assets.manifest import Item, Wheel
from lfl_jax.core import files
from lfl_jax.errors import UserError

Report = Callable[[str, int, int], None]  # label, bytes so far, bytes in all

RETRIES = 2  # of pip, at least 1: only a retry makes it say that nothing answered

# What pip's log says when nothing answered, as opposed to an index that answers and lacks the
# version.
UNREACHABLE = (
    "connection broken",
    "NewConnectionError",
    "Max retries exceeded",
    "timed out",
    "name resolution",
)


def fetch_wheel(wheel: Wheel, items: Sequence[Item], report: Report) -> None:
    """Download a wheel once, verify it, and install every item of `items` from it."""
    label = f"{wheel.package}=={wheel.version}"
    with cache.staging() as folder:
        file = _pip_download(
            label, folder, lambda done: report(label, min(done, wheel.bytes), wheel.bytes)
        )
        sha256 = files.sha256(file)
        if sha256 != wheel.sha256:
            raise UserError(
                f"{label}: the downloaded file has sha256 {sha256}, the manifest says"
                f" {wheel.sha256}.\n"
                "Nothing was unpacked; see `pip config list` for the index it came from."
            )
        report(label, wheel.bytes, wheel.bytes)
        for item in items:
            cache.install(_unpack(file, item, folder / item.name), item)


def _unpack(wheel: Path, item: Item, into: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        for member, name in item.files:
            target = into / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, open(target, "wb") as copy:
                shutil.copyfileobj(source, copy, 1 << 20)
    return into


def _pip_download(requirement: str, folder: Path, tell: Callable[[int], None]) -> Path:
    """The wheel of `requirement`, from the index pip is set up for.

    tell: called with the bytes that arrived.
    """
    log, target = folder / "pip.log", folder / "wheel"
    command = [sys.executable, "-m", "pip", "download", requirement, "--dest", str(target)]
    # data, not code to run
    command += ["--no-deps", "--only-binary=:all:", "--ignore-requires-python"]
    command += [
        "--no-input",
        "--progress-bar=off",
        "--disable-pip-version-check",
        f"--retries={RETRIES}",
    ]
    # pip writes what arrives under TMPDIR: there it can be watched, and is cleared away with the
    # folder.
    environment = os.environ | {"TMPDIR": str(folder)}
    with open(log, "w") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment,
        )
        try:
            while _running(process):
                tell(_largest_file(folder))
        finally:
            process.kill()
            process.wait()
    wheels = sorted(target.glob("*.whl"))
    if process.returncode != 0 or len(wheels) != 1:
        raise UserError(_pip_failure(requirement, log.read_text(errors="replace")))
    return wheels[0]


def _running(process: subprocess.Popen) -> bool:
    try:
        process.wait(timeout=0.1)
    except subprocess.TimeoutExpired:
        return True
    return False


def _largest_file(folder: Path) -> int:
    sizes = [0]
    for base, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # pip moved it meanwhile
                sizes.append(os.stat(os.path.join(base, name)).st_size)
    return max(sizes)


def _pip_failure(requirement: str, log: str) -> str:
    errors = [
        line.removeprefix("ERROR: ") for line in log.splitlines() if line.startswith("ERROR: ")
    ]
    reason = (
        errors[-1] if errors else (log.strip().splitlines() or ["it stopped without a word"])[-1]
    )
    if any(sign in log for sign in UNREACHABLE):
        reason = "the package index cannot be reached (offline?)"
    elif "No module named pip" in log:
        reason = f"pip is not installed here; `{sys.executable} -m ensurepip` installs it"
    return (
        f"cannot download {requirement} with pip: {reason}.\n"
        "Nothing was changed; run the same command again."
    )
