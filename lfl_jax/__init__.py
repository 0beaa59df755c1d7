"""Low-rank adapters against full finetuning: what is learned, what is forgotten.

The functions of `lfl_jax.api` are there when they are first used, with jax.
"""

from typing import Any

API = (
    "run",
    "get_config",
    "Own",
    "Outcome",
    "load",
    "save",
    "generate",
    "load_adapter",
    "save_adapter",
)


def __getattr__(name: str) -> Any:
    if name in API:
        from lfl_jax import api

        return getattr(api, name)
    if name == "__version__":
        from importlib.metadata import version

        return version("lfl_jax")
    raise AttributeError(f"module 'lfl_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), "__version__", *API]
