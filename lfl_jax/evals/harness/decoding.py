"""How the harness asks for texts: a task's generation_kwargs, read as its own models read them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lfl_jax.errors import UserError


@dataclass(frozen=True)
class Decoding:
    """How a text is generated; temperature 0 is greedy.

    stop: texts that end it and are not part of it, EOS among them.
    """

    max_new_tokens: int
    stop: tuple[str, ...]
    temperature: float = 0.0
    top_p: float = 1.0

    @classmethod
    def from_kwargs(cls, gen_kwargs: dict[str, Any], default_tokens: int, eos: str) -> "Decoding":
        """A task's generation_kwargs; the text of EOS is one more stop.

        Without do_sample, a temperature above 0 means sampling; with do_sample false it is ignored.
        When sampling, top_p alone truncates the distribution. Raises UserError, by name, for
        settings that change the text and are not supported.
        """
        from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs

        options = dict(normalize_gen_kwargs(gen_kwargs, default_tokens))
        # An empty stop text would end every answer before it begins.
        stop = tuple(filter(None, handle_stop_sequences(list(options.pop("until")), eos)))
        tokens, sample = options.pop("max_gen_toks"), options.pop("do_sample")
        temperature = options.pop("temperature", None) or 0.0
        top_p = options.pop("top_p", None) or 1.0
        # What is left over is refused, not ignored: the numbers would not be the task's.
        _refuse_unsupported(options, sample)
        if not sample:
            return cls(tokens, stop)
        if temperature <= 0:
            raise UserError("generation_kwargs do_sample=True needs a temperature above 0")
        return cls(tokens, stop, float(temperature), float(top_p))


# Options that are not supported: the value that changes nothing, and whether it only matters when
# sampling.
NEUTRAL = {
    "top_k": (0, True),
    "min_p": (0, True),
    "typical_p": (1, True),
    "num_beams": (1, False),
    "repetition_penalty": (1, False),
    "no_repeat_ngram_size": (0, False),
    "num_return_sequences": (1, False),
    "use_cache": (True, False),
}


def _refuse_unsupported(options: Mapping[str, Any], sample: bool) -> None:
    refused = []
    for name, value in sorted(options.items()):
        neutral, sampling_only = NEUTRAL.get(name, (None, False))
        if value is not None and value != neutral and (sample or not sampling_only):
            refused.append(f"{name}={value!r}")
    if refused:
        raise UserError(
            f"generation_kwargs {', '.join(refused)}: not supported; there are until, max_gen_toks,"
            " do_sample, temperature and top_p"
        )
