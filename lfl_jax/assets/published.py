"""The values that the paper printed, for figures to show beside one's own."""

import importlib.resources
import json
from typing import Any

from lfl_jax.errors import UserError


def published(version: str = "v2") -> dict[str, Any]:
    """{setting: {"epochs" or "tokens_billions": [...], measure: {"r16" | ... | "full": [...]}}} of
    a version.

    "v2" is the paper's tables S1 to S8, with "base" for Llama-2-7B's values; "v1" single figures of
    its first version. Measures are accuracies, forgetting the mean of three. The two are of
    different protocols and do not mix. Raises UserError for another version.
    """
    file = importlib.resources.files("lfl_jax.third_party") / "published.json"
    by_version = json.loads(file.read_text("utf-8"))
    if version not in ("v1", "v2"):
        raise UserError(f"there are published values of v1 and v2, not of {version!r}")
    return by_version[version]
