"""Programs are compiled once: a second process reads all of them."""

import os
import subprocess
import sys
from pathlib import Path

KEEP = """
import jax
from pathlib import Path
from lfl_jax.core.process import keep_compiled_programs
keep_compiled_programs(Path({folder!r}))
jax.jit(lambda x: 3 * x + 1)(2.0).block_until_ready()
"""
OF_JAX = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")


def kept(folder: Path, **variables: str) -> int:
    """How many programs a process with these variables leaves in the folder."""
    environment = {name: text for name, text in os.environ.items() if name not in OF_JAX}
    code = KEEP.format(folder=str(folder))
    subprocess.run([sys.executable, "-c", code], env=environment | variables, check=True)
    return len(list(folder.glob("*-cache")))


def test_a_program_that_compiles_at_once_is_kept_as_well(tmp_path: Path) -> None:
    assert kept(tmp_path / "kept") > 0


def test_the_variables_of_jax_say_otherwise(tmp_path: Path) -> None:
    assert kept(tmp_path / "slow", JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="60") == 0
    elsewhere = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "theirs")}
    assert kept(tmp_path / "ours", **elsewhere) == 0
    assert list((tmp_path / "theirs").glob("*-cache"))
