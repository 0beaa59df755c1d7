"""Regexes of other people, tried out where their time is bounded before they are used.

A regex may take longer than the universe on a name of 40 characters: ((a|b)+)+! does. Python's `re`
has no limit of time and cannot be stopped in a thread, so that a process of its own tries a regex
on names of modules first. What is fast there is fast here.
"""

import json
import re
import subprocess
import sys
from collections.abc import Sequence

from lfl_jax.io.hf_names import MODULES

CPU_SECONDS, SECONDS = 0.5, 60  # of the process; the second is for a machine that does much else
# A regex with fewer of these cannot backtrack far on a short name.
REPETITIONS = re.compile(r"[*+?{]")
FEW = 3
LAYERS = (0, 7, 31, 127)  # as names of modules have them
# Also run where the package cannot be imported: it needs nothing of it.
PROGRAM = """
import json, re, signal, sys, warnings
warnings.simplefilter("ignore")
signal.setitimer(signal.ITIMER_VIRTUAL, float(sys.argv[1]))
patterns, names = json.load(sys.stdin)
for pattern in patterns:
    compiled = re.compile(pattern)
    for name in names:
        compiled.match(name), compiled.fullmatch(name)
    print(flush=True)
"""


def first_slow(patterns: Sequence[str]) -> str | None:
    """The first of these regexes that takes too long on names of modules; None for none."""
    doubtful = [p for p in patterns if len(REPETITIONS.findall(p)) >= FEW or _repeats_group(p)]
    if not doubtful:
        return None
    command = [sys.executable, "-I", "-S", "-c", PROGRAM, str(CPU_SECONDS)]
    try:
        # As ASCII: a pattern may have halves of characters.
        done = subprocess.run(
            command,
            input=json.dumps([doubtful, _names()]).encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=SECONDS,
        )
        finished = done.stdout.count(b"\n")
    except subprocess.TimeoutExpired as error:
        finished = (error.stdout or b"").count(b"\n")
    return doubtful[finished] if finished < len(doubtful) else None


def _repeats_group(pattern: str) -> bool:
    return re.search(r"\)[*+{]", pattern) is not None


def _names() -> list[str]:
    ends = [*MODULES.values(), "input_layernorm", "post_attention_layernorm"]
    names = [f"model.layers.{layer}.{end}" for layer in LAYERS for end in ends]
    return [*names, "model.embed_tokens", "model.norm", "lm_head"]
