"""Commands of clusters and clouds on PATH that record how they are called, and answer as told."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]

# The first line WORDS|OUTPUT|CODE of its answers whose WORDS are in the call is used, once; without
# any it succeeds and says nothing. `-m venv` copies it to where the environment's Python would be.
FAKE = r"""#!/usr/bin/env bash
name=${0##*/} call="${0##*/} $*"
echo "${call//$'\n'/ ; }" >> "$FAKES/log"
if [[ "$*" == "-m venv "* || "$*" == *" venv --quiet --seed "* ]]; then
    for last; do :; done
    mkdir -p "$last/bin" && cp "$0" "$last/bin/python"
fi
[[ -f $FAKES/$name ]] || exit 0
rest="" found=""
while IFS='|' read -r words output code; do
    if [[ ! $found && "$*" == *"$words"* ]]; then
        found=yes said=$output ends=$code
    else
        rest+="$words|$output|$code"$'\n'
    fi
done < "$FAKES/$name"
printf %s "$rest" > "$FAKES/$name"
[[ ! ${said:-} ]] || echo "$said"
[[ ${ends:-0} == 0 ]] || echo "$name fails" >&2
exit "${ends:-0}"
"""


@dataclass(frozen=True)
class Checkout:
    """A folder with the scripts alone, and fakes of what they call."""

    folder: Path
    environment: dict[str, str]

    @classmethod
    def make(cls, folder, *names):
        """names: of the commands, beside python3."""
        shutil.copytree(ROOT / "launch", folder / "launch")
        shutil.copy(ROOT / "check.sh", folder)
        for each in ("bin", "fakes", "tmp"):
            (folder / each).mkdir()
        for name in ("python3", "sleep", *names):
            (folder / "bin" / name).write_text(FAKE)
            (folder / "bin" / name).chmod(0o755)
        # Nothing of this machine's settings, which may be those of a cluster.
        path = f"{folder / 'bin'}:{os.environ['PATH']}"
        places = {"FAKES": str(folder / "fakes"), "TMPDIR": str(folder / "tmp")}
        return cls(folder, {"PATH": path, "HOME": str(folder), **places})

    def answers(self, name, *lines):
        """What the command `name` says to coming calls: WORDS|OUTPUT|CODE."""
        (self.folder / "fakes" / name).write_text("".join(f"{line}\n" for line in lines))

    def run(self, script, *arguments, **variables):
        """A script of the checkout, with these environment variables."""
        return subprocess.run(
            ["bash", script, *arguments],
            cwd=self.folder,
            env=self.environment | variables,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def calls(self):
        """What was called, without questions about a Python's version; forgotten by this."""
        log = self.folder / "fakes" / "log"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return [line for line in lines if " -c " not in line and "--version" not in line]
