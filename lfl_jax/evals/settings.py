"""Shapes and limits of an evaluation."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sampling:
    """How programs are drawn, and whether they may run where isolation is weak."""

    samples: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    allow_weak_sandbox: bool = False


@dataclass(frozen=True)
class Settings:
    """Shapes and limits. All batches of a method have the same shape, for one compiled program.

    rows: rows of a scoring batch. length: tokens of a scoring row; longer contexts lose their
    beginning. generate_rows: prompts of a generation batch. window: the model's context, which
    prompt and generated tokens share. pick: under a limit, the "first" items, as the harness takes
    them, or evenly "spread" ones. The latter represent a sorted data set: HellaSwag's first third
    is video captions, the rest how-to articles.
    """

    # Of scores.
    rows: int
    length: int
    # Of generated texts.
    generate_rows: int
    max_new_tokens: int
    window: int
    # Of the items.
    pick: str = "first"
    sampling: Sampling = Sampling()
