"""Random pairs of UUIDs, a key and its value, to be memorised (MoRA, arXiv 2405.12130, §3).

UUIDs are of version 4: of 32 hexadecimal digits one is always 4 and one of 8, 9, a, b. A model that
knows the format and nothing else gets CHANCE_DIGIT_ACCURACY of a value's digits right. MoRA's table
begins at 9.9 to 10.1 %, which is this number; UUIDs of 32 random digits would begin at 6.3 %, and
counted hyphens at 19.8 %. The prompt is not in the paper.
"""

import hashlib
from dataclasses import dataclass
from uuid import UUID

from lfl_jax.data.examples import Drawn, Example
from lfl_jax.errors import UserError

# 30 free digits at 1 in 16, the version, which is known, and the variant at 1 in 4.
CHANCE_DIGIT_ACCURACY = (30 / 16 + 1 / 1 + 1 / 4) / 32
# The pairs of a split. Recall is measured on the training pairs, so that "dev" has these again.
DRAWS = {"train": "train", "dev": "train", "test": "test"}
KEY = "{key}"


def describe(seed: int) -> str:
    """The provenance line of a source drawn with this seed."""
    return (
        f"synthetic: random UUID pairs, seed {seed}; dev repeats the training pairs, to measure"
        " recall"
    )


@dataclass(frozen=True)
class UUIDPairs(Drawn):
    """Pairs of a split. prompt: holds {key}, for the key."""

    prompt: str
    hyphens: bool

    def draw(self, i: int) -> Example:
        """Pair i."""
        name = f"{DRAWS[self.split]}/{i}"
        drawn = hashlib.sha256(f"{self.seed}/{name}".encode()).digest()
        key, value = (self._text(drawn[16 * part :][:16]) for part in range(2))
        return Example(self.prompt.replace(KEY, key), value, id=name, cluster=name)

    def _text(self, drawn: bytes) -> str:
        uuid = UUID(bytes=drawn, version=4)
        return str(uuid) if self.hyphens else uuid.hex


def source(
    seed: int, split: str, size: int, *, prompt: str = KEY, hyphens: bool = False
) -> UUIDPairs:
    """`size` pairs in random access; UserError for an unknown split, or a prompt without {key}."""
    if split not in DRAWS:
        raise UserError(
            f"unknown split {split!r} of the UUID pairs; expected one of {', '.join(DRAWS)}"
        )
    if KEY not in prompt:
        raise UserError(f"config.data.uuid_prompt={prompt!r} must hold {KEY}, where the key goes")
    return UUIDPairs(seed, split, size, prompt, hyphens)
