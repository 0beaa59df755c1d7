"""README and docs as tests read them: blocks of code in fences, and the commands in them.

A mark directly above a block says how it is tested; nothing of it is visible in the rendered page.

| mark | what happens |
|---|---|
| none, Python | runs in every check |
| none, bash | its lfl_jax commands are parsed in every check, and the block runs under the slow marker |
| `<!-- slow -->` | runs under the slow marker |
| `<!-- not run: REASON -->` | never runs; its commands are parsed, and Python is compiled |

The Python of a page shares its names, as the cells of a notebook do. A block that begins with
`# NAME.py` is written to that file first, so that later blocks and commands can use it.
"""

import dataclasses
import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
CODE, OUTPUT = ("python", "bash"), ("text", "json", "jsonl")
NOT_RUN = "not run: "

_BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>.*?) -->\n)?^```(?P<language>[^\n`]*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_ENDS = {"&", "&&", ";", "|", ">", "done"}  # what ends a command within a line


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block; `name` is its page and line."""

    name: str
    language: str
    text: str
    mark: str

    @property
    def runs(self) -> bool:
        """False for what a test cannot run: the mark has the reason."""
        return self.language in CODE and not self.mark.startswith(NOT_RUN)

    @property
    def is_quick(self) -> bool:
        """True for what every check runs."""
        return self.runs and self.language == "python" and self.mark != "slow"

    @property
    def file(self) -> str | None:
        """The file that the block is the content of."""
        first = re.match(r"# (\w+\.(?:py|jsonl))\n", self.text)
        return first[1] if first else None


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text("utf-8")
    return [
        Block(
            f"{page.relative_to(ROOT)}:{text.count(chr(10), 0, match.start('text'))}",
            match["language"],
            match["text"],
            match["mark"] or "",
        )
        for match in _BLOCK.finditer(text)
    ]


def commands(page: Path) -> list[tuple[str, list[str]]]:
    """(module, arguments) of each `python -m lfl_jax...` in a page's blocks and running text."""
    lines = [line for block in blocks(page) if block.language == "bash" for line in joined(block)]
    prose = _BLOCK.sub("", page.read_text("utf-8"))
    lines += re.findall(r"`(python -m lfl_jax[^`]*)`", prose.replace("\n", " "))
    return [command for line in lines if (command := _command(line))]


def joined(block: Block) -> list[str]:
    """The lines of a block of bash, continued ones in one piece."""
    return block.text.replace("\\\n", " ").splitlines()


def _command(line: str) -> tuple[str, list[str]] | None:
    words = shlex.split(line, comments=True)
    if "-m" not in words or not words[words.index("-m") + 1].startswith("lfl_jax"):
        return None
    module, *rest = words[words.index("-m") + 1 :]
    ends = [i for i, word in enumerate(rest) if word in _ENDS]
    return module, rest[: ends[0]] if ends else rest
