"""Write what a run learned, or an adapter, in other tools' formats.

    python -m lfl_jax.export --run=runs/quickstart --to=peft --out=exported/adapter
    python -m lfl_jax.export --run=runs/quickstart --to=hf --out=exported/model
    python -m lfl_jax.export --model=DIR --adapter=PEFT_DIR --to=hf --out=exported/model

--run=DIR             a run, at --step=latest | best | a number; where its base was moved, with
                      --config.model.path=PATH
--second              of a run over a frozen first adapter (config.adapter.over): the second alone
--model=PATH          a base instead (a Hugging Face folder, a .gguf file or a fetched name), with
                      --adapter=PATH
--to=peft             the adapter as a PEFT folder (LoRA, DoRA, (IA)^3 and VeRA; others with
                      --rank=K: the best LoRA of rank K), with the parameters that trained whole
--to=hf               the merged model as a Hugging Face folder with its tokenizer
--to=adapter          the adapter, of any kind, as one .safetensors file (--out names it)
--allow_code=FILE.py  a file with a kind of yours that the run or adapter names, and that may run
                      (may be repeated)
--dtype=bfloat16      float32, bfloat16 or float16: the dtype of the written weights
--target=dequantised  a quantised run is merged into the dequantised base it was trained on; or
                      --target=original --original=DIR: into the weights before quantisation
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lfl_jax.core import files, one_process
from lfl_jax.errors import UserError, entry

if TYPE_CHECKING:
    from lfl_jax.analysis.merge_error import MergeError
    from lfl_jax.core.types import Params
    from lfl_jax.model import LoadedModel, Model
    from lfl_jax.text.tokenizers import Tokenizer


def main(argv: Sequence[str]) -> None:
    """The command above."""
    one_process.require_one("lfl_jax.export", argv[1:])
    options = _parser().parse_args(list(argv)[1:])
    if bool(options.run) == bool(options.model):
        raise UserError(
            "give either --run=DIR, or --model=PATH with or without --adapter=PATH (see --help)"
        )
    if options.target == "original" and not options.original:
        raise UserError(
            "--target=original needs --original=DIR, the folder of the weights before quantisation"
        )
    if Path(options.out).exists():
        raise UserError(f"--out={options.out} exists; name a new place")
    # Half an export might load in another tool, as something else.
    with files.removed_on_error(options.out):
        EXPORTS[options.to](*_load(options), options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lfl_jax.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage=argparse.SUPPRESS,  # the description is a whole page: a list of flags repeats it
    )
    for name in ("run", "model", "adapter", "original"):
        parser.add_argument(f"--{name}", default="", help=argparse.SUPPRESS)
    parser.add_argument(
        "--config.model.path", dest="model_path", default="", help=argparse.SUPPRESS
    )
    parser.add_argument("--allow_code", action="append", default=[], help=argparse.SUPPRESS)
    parser.add_argument("--step", default="latest", help=argparse.SUPPRESS)
    parser.add_argument("--second", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--rank", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--to", required=True, choices=EXPORTS, help=argparse.SUPPRESS)
    parser.add_argument("--out", required=True, help=argparse.SUPPRESS)
    dtypes, targets = ("float32", "bfloat16", "float16"), ("dequantised", "original")
    hidden = {"help": argparse.SUPPRESS}
    parser.add_argument("--dtype", default="bfloat16", choices=dtypes, **hidden)
    parser.add_argument("--target", default="dequantised", choices=targets, **hidden)
    return parser


def _load(options: argparse.Namespace) -> tuple["LoadedModel", "Model"]:
    """(base, model): the base of what is exported, and its parameters and adapter."""
    from lfl_jax.api import find, load_adapter
    from lfl_jax.config import own_code
    from lfl_jax.core import tree
    from lfl_jax.core.sharding import make_rules
    from lfl_jax.model import LoadedModel, Model, Origin
    from lfl_jax.run_setup import earlier_run

    allowed = [file for text in options.allow_code for file in text.split(",")]
    if options.run:
        code = own_code.allowing(allowed)
        step = earlier_run.step_of(options.step)
        base, model, step = earlier_run.restore(
            Path(options.run), step=step, model_path=options.model_path, code=code
        )
        print(f"{options.run}: step {step} over {base.origin.source}")
        if options.second:
            run, params = Path(options.run), base.model.params
            model = model.replace(adapter=earlier_run.second(run, model.adapter, params, code))
        return base, model

    files = find(options.model)
    params = files.load(files.cfg, make_rules(), "float32")
    origin = Origin(str(files.path), files.quantised, tree.fingerprint(params))
    model = Model(params=params, adapter={})
    base = LoadedModel(model, files.cfg, files.tokenizer(), origin)
    if options.adapter:
        params, adapter = load_adapter(options.adapter, params, allow_code=allowed)
        model = Model(params=params, adapter=adapter)
    return base, model


def _to_peft(base: "LoadedModel", model: "Model", options: argparse.Namespace) -> None:
    from lfl_jax import adapters, api

    adapter = _adapter(model)
    # A kind that PEFT lacks is written as its best LoRA, with the error of doing so.
    if options.rank:
        adapter, error = adapters.truncate(adapter, base.model.params, options.rank)
        print(
            f"LoRA of rank {options.rank} in place of the adapter: relative error of dW {error:.3g}"
        )
    api.save_adapter(
        options.out,
        adapter,
        model.params,
        base=base.model.params,
        base_name=base.origin.source,
        dtype=options.dtype,
    )
    print(f"written to {options.out}: PeftModel.from_pretrained(base, {options.out!r})")


def _to_adapter(base: "LoadedModel", model: "Model", options: argparse.Namespace) -> None:
    from lfl_jax import api

    file = Path(options.out)
    if file.suffix != ".safetensors":
        raise UserError(f"--out={options.out}: an adapter is one file; name it NAME.safetensors")
    api.save_adapter(file, _adapter(model), model.params, base=base.model.params)
    print(f"written to {file}: lfl_jax.load_adapter({options.out!r}, params)")


def _adapter(model: "Model") -> dict:
    if not model.adapter:
        raise UserError("there is no adapter to export; --to=hf writes the parameters that trained")
    return model.adapter


def _to_hf(base: "LoadedModel", model: "Model", options: argparse.Namespace) -> None:
    import jax
    import jax.numpy as jnp

    from lfl_jax import adapters, api
    from lfl_jax.analysis.merge_error import merge_error

    target, adapter = model.params, model.adapter
    if options.target == "original":
        target = _original(base, model, options.original)
        # DoRA divides by norms of its weights: those of the original, not of the dequantised ones.
        adapter = adapters.rebind(adapter, target)
    merged = adapters.merge(adapter, target, jnp.dtype(options.dtype))

    # Rounding to the written dtype is part of the error, so the merged weights as written are used.
    tokens = jnp.asarray(_sample(base.tokenizer))
    error = merge_error(model.params, model.adapter, merged, tokens, base.cfg, jax.random.key(0))
    # Recorded in the folder: these weights have an error that their dtype does not show.
    quantised = base.origin.quantised if options.target == "dequantised" else None
    api.save(
        options.out,
        merged,
        base.cfg,
        base.tokenizer,
        dtype=options.dtype,
        dequantised_from=quantised,
    )
    print(f"logits against the unmerged model over {tokens.size} tokens: {_differences(error)}")
    if options.target == "original":
        print(
            "  (the unmerged model stands on the dequantised base: this is the error of"
            " quantisation, too)"
        )
    elif not error.within:
        print(
            "  warning: this is more than rounding explains; compare the models before you use this"
            " one"
        )
    if quantised:
        print(
            f"  merged into weights dequantised from {quantised}; --target=original merges into the"
            " original's"
        )
    without = "" if base.tokenizer.files() else ", without tokenizer files: plain bytes have none"
    print(f"written to {options.out}{without}")


def _original(base: "LoadedModel", model: "Model", source: str) -> "Params":
    """The base's weights before quantisation; UserError where its parameters were trained, too."""
    from lfl_jax import api
    from lfl_jax.core import tree
    from lfl_jax.core.sharding import make_rules

    original = api.find(source)
    if tree.changed(model.params, base.model.params):
        raise UserError(
            "--target=original: this run trained parameters of the dequantised base, not only an"
            " adapter"
        )
    return original.load(base.cfg, make_rules(), "float32")


def _differences(error: "MergeError") -> str:
    return (
        f"max {error.largest:.3g}, mean {error.mean:.3g}"
        f" (rounding alone: max {error.expected_largest:.3g}, mean {error.expected_mean:.3g})"
    )


def _sample(tokenizer: "Tokenizer") -> list[list[int]]:
    """Two rows of 64 tokens of ordinary text and digits."""
    text = (
        "A farmer packs 12 eggs into each of 7 boxes and sells them for $3.50 a box. How much does"
        " she earn? " * 8
    )
    ids = tokenizer.encode(text)[:128]
    return [ids[:64], ids[64:128]]


EXPORTS: dict[str, Callable[["LoadedModel", "Model", argparse.Namespace], None]] = {
    "peft": _to_peft,
    "hf": _to_hf,
    "adapter": _to_adapter,
}


if __name__ == "__main__":
    entry(main)
