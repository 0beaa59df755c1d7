"""How fast LoRA, MoRA and full finetuning memorise random UUID pairs, at a size for two CPU cores.

    python benchmarks/uuid_memorisation.py                        rank 2; writes results/uuid_memorisation_cpu
    python benchmarks/uuid_memorisation.py --rank=4 --kinds=lora,mora,mora_sharing1,full --out=FOLDER

After MoRA (arXiv 2405.12130, §3 and §5.1), where Llama-2-7B learns 10,000 pairs in 1,000 steps: at
rank 8 MoRA has all of them by step 900, LoRA 54 %. Here a two-layer Llama of width 64 is pretrained
on other pairs in the same format, by the same loop and as a whole; then every method learns new
pairs on it, all pairs in every step, and writes their values down every few steps (greedily; see
evals/tasks/uuid_recall.py). MoRA's square has LoRA's number of weights, rounded.

Each method gets the learning rate of its grid with the lowest loss at the end of a run of the same
length on pairs of another seed; the grids have one size, and a choice at a grid's edge is said in
the JSON. On 2 cores of an AMD EPYC
(Zen 4) that did other work besides: 4 min (a step of 0.04 s takes twice as long then); MoRA 65 %,
LoRA 22 %, full 100 % of the digits at step 120. Needs the extra plots.
"""

import argparse
import datetime
import json
import shlex
import statistics
import sys
import tempfile
import time
from pathlib import Path

GRIDS = {"lora": (1e-2, 2e-2, 4e-2), "mora": (1e-2, 2e-2, 4e-2), "full": (1e-3, 3e-3, 1e-2)}
SEARCH_SEED, BASE_SEED = 100, 200  # of pairs; the measured runs have 0, 1, ...
WORDS = ("Question: ", "\nAnswer:", " ")
TOKENS_PER_PAIR = 36


def write_tokenizer(folder: Path) -> None:
    """Two hexadecimal digits a token, as many as Llama's tokenizers put into one or two, and the
    template's words."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    pieces = [f"{i:02x}" for i in range(256)] + list(WORDS) + ["<s>", "</s>", "<unk>"]
    tokenizer = Tokenizer(
        models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(
        Regex("|".join((*WORDS, "[0-9a-f]{2}"))), "isolated"
    )
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def configured(a: argparse.Namespace, model: Path, kind: str, lr: float, seed: int, **changes):
    """A run of configs/uuid.py on this base; changes: pairs, steps, every."""
    from lfl_jax.configs import uuid

    from lfl_jax.config import Config

    c = uuid.get_config(f"{kind},lr={lr}" + ("" if kind == "full" else f",r={a.rank}"))
    pairs = changes.get("pairs", a.pairs)
    uuid.recall(c, pairs, changes.get("every", a.every))
    c.model.path, c.model.remat = str(model), "none"
    c.data.seq_len, c.data.pack_bins, c.train.batch = 4 * TOKENS_PER_PAIR, 16, min(pairs, 64) // 4
    c.train.steps, c.eval.tasks, c.eval.max_new_tokens = changes.get("steps", a.steps), (), 32
    c.seed.data = c.seed.init = seed
    c.checkpoint.every, c.checkpoint.keep, c.checkpoint.best, c.log.tensorboard = (
        0,
        1,
        "none",
        False,
    )
    return Config.from_dict(c)


def run(config, folder: Path) -> dict:
    """A run's recall by step, its loss at the end (mean of 10 steps, nats/token) and its
    figures."""
    from lfl_jax import train

    facts = train.run(train.Run(config, folder)).facts
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    recall = {line["step"]: line["dev/uuid_recall"] for line in lines if "dev/uuid_recall" in line}
    loss = statistics.mean([line["loss"] for line in lines if "loss" in line][-10:])
    return {
        "recall": recall,
        "loss": loss,
        "seconds": facts["wall_seconds"],
        "trainable": facts["trainable"],
    }


def pretrained(a: argparse.Namespace, folder: Path) -> tuple[Path, dict]:
    """The base of all runs: random weights, full finetuning on pairs of its own, exported."""
    import jax

    from lfl_jax import api, export
    from lfl_jax.core import spec
    from lfl_jax.models import llama
    from lfl_jax.models.presets import PRESETS
    from lfl_jax.text import tokenizers

    (folder / "tokenizer").mkdir(parents=True)
    write_tokenizer(folder / "tokenizer")
    cfg = PRESETS["tiny"]
    params = spec.init(llama.specs(cfg), jax.random.key(0))
    api.save(
        folder / "random",
        params,
        cfg,
        tokenizers.from_folder(folder / "tokenizer"),
        dtype="float32",
    )
    changes = {"pairs": 256, "steps": a.base_steps, "every": a.base_steps}
    found = run(
        configured(a, folder / "random", "full", 3e-3, BASE_SEED, **changes), folder / "base_run"
    )
    export.main(
        [
            "export",
            f"--run={folder / 'base_run'}",
            "--to=hf",
            "--dtype=float32",
            f"--out={folder / 'base'}",
        ]
    )
    return folder / "base", found


def search(a: argparse.Namespace, base: Path, kind: str, folder: Path) -> dict[float, float]:
    """{learning rate: loss at the end} on pairs of another seed."""
    found = {}
    for lr in GRIDS[kind.partition("_")[0]]:
        config = configured(a, base, kind, lr, SEARCH_SEED, every=a.steps)
        found[lr] = run(config, folder / f"{kind}_{lr:g}")["loss"]
        say(a, f"search {kind:<14} lr {lr:<7g} loss {found[lr]:.3f}")
    return found


def measure(a: argparse.Namespace, base: Path, kind: str, folder: Path) -> dict:
    """Search, then one run a seed at the rate found."""
    grid = search(a, base, kind, folder / "search")
    best = min(grid, key=grid.get)
    runs = []
    for seed in range(a.seeds):
        runs.append(run(configured(a, base, kind, best, seed), folder / f"{kind}_seed{seed}"))
        curve = "  ".join(f"{step}: {100 * x:.0f} %" for step, x in runs[-1]["recall"].items())
        say(a, f"{kind} seed {seed}, lr {best:g}: {curve}")
    edge = best in (min(grid), max(grid))
    return {
        "lr": best,
        "at_edge_of_grid": edge,
        "grid_loss": grid,
        "trainable": runs[0]["trainable"],
        "runs": runs,
    }


def say(a: argparse.Namespace, text: str) -> None:
    """A line of progress with the time since the start."""
    print(f"[{time.monotonic() - a.started:4.0f} s] {text}", flush=True)


def mean(method: dict, step: int) -> float:
    """Recall at a step, over seeds, in percent."""
    return 100 * statistics.mean(r["recall"][step] for r in method["runs"])


def show(methods: dict[str, dict]) -> None:
    """Recall by step: mean over seeds, and the lowest and highest seed."""
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "step", title="digits recalled, % (lowest to highest seed)", box=None, padding=(0, 2, 0, 0)
    )
    for kind, method in methods.items():
        table.add_column(f"{kind}, lr {method['lr']:g}", justify="right")
    for step in next(iter(methods.values()))["runs"][0]["recall"]:
        cells = []
        for method in methods.values():
            each = [100 * r["recall"][step] for r in method["runs"]]
            cells.append(f"{mean(method, step):.1f} ({min(each):.1f} to {max(each):.1f})")
        table.add_row(str(step), *cells)
    table.add_row("trained", *(f"{m['trainable']:,}" for m in methods.values()))
    table.add_row(
        "s a run",
        *(f"{statistics.mean(r['seconds'] for r in m['runs']):.0f}" for m in methods.values()),
    )
    Console().print(table)


def verdict(methods: dict[str, dict]) -> str:
    """Whether the lowest seed of MoRA is above the highest of LoRA: at the last step, and at how
    many before."""
    if not {"lora", "mora"} <= set(methods):
        return "lora and mora were not both run"
    lora, mora = ([r["recall"] for r in methods[kind]["runs"]] for kind in ("lora", "mora"))
    above = [step for step in lora[0] if min(r[step] for r in mora) > max(r[step] for r in lora)]
    last = max(lora[0])
    figures = f"{mean(methods['mora'], last):.1f} % against {mean(methods['lora'], last):.1f} % at step {last}"
    words = "MoRA is above LoRA" if last in above else "MoRA is NOT above LoRA"
    return f"{words}: {figures}; in every seed at {len(above)} of {len(lora[0])} looks"


def draw(methods: dict[str, dict], title: str, file: Path) -> None:
    """Recall by step, a line for the mean over seeds and a band from lowest to highest."""
    from matplotlib import pyplot

    from lfl_jax.data.uuid_pairs import CHANCE_DIGIT_ACCURACY

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for kind, method in methods.items():
        steps = list(method["runs"][0]["recall"])
        each = [[100 * r["recall"][step] for r in method["runs"]] for step in steps]
        (line,) = axes.plot(steps, [statistics.mean(x) for x in each], marker="o", label=kind)
        axes.fill_between(
            steps, [min(x) for x in each], [max(x) for x in each], alpha=0.2, color=line.get_color()
        )
    axes.axhline(
        100 * CHANCE_DIGIT_ACCURACY, linestyle=":", color="grey", label="format known, values not"
    )
    axes.set(xlabel="step", ylabel="digits recalled, %", ylim=(0, 102), xlim=(0, None), title=title)
    figure.legend(loc="outside lower center", ncols=4)
    figure.savefig(file, dpi=120)


def main() -> None:
    """The command above."""
    a = arguments()
    import jax
    import matplotlib

    from lfl_jax.core.process import keep_compiled_programs

    matplotlib.use("Agg")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        keep_compiled_programs(folder / "compiled")
        base, base_run = pretrained(a, folder)
        say(a, f"base: {base_run['trainable']:,} parameters, recalls"
               f" {100 * max(base_run['recall'].values()):.0f} %"
               f" of its own 256 pairs after {a.base_steps} steps")  # fmt: skip
        methods = {kind: measure(a, base, kind, folder) for kind in a.kinds.split(",")}
    show(methods)
    print(verdict(methods))
    about = {
        "command": shlex.join(["python", *sys.argv]),
        "date": datetime.date.today().isoformat(),
    }
    settings = {name: value for name, value in vars(a).items() if name not in ("out", "started")}
    content = about | {
        "device": f"{len(jax.devices())} x {jax.devices()[0].device_kind}"
        f" ({jax.devices()[0].platform})",
        "versions": {"python": sys.version.split()[0], "jax": jax.__version__},
        "seconds": time.monotonic() - a.started,
        "cpu_seconds": time.process_time(),
        "settings": settings,
        "base": base_run,
        "verdict": verdict(methods),
        "methods": methods,
    }
    a.out.mkdir(parents=True, exist_ok=True)
    (a.out / "results.json").write_text(json.dumps(content, indent=1) + "\n")
    draw(methods, f"{a.pairs} UUID pairs, rank {a.rank}, width 64", a.out / "recall.png")
    say(a, f"written to {a.out}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rank", type=int, default=2, help="of LoRA; MoRA's square has as many weights"
    )
    parser.add_argument(
        "--pairs", type=int, default=64, help="to memorise; a multiple of 4, at most 64"
    )
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--every", type=int, default=20, help="steps between looks")
    parser.add_argument("--seeds", type=int, default=2, help="measured runs of each method")
    parser.add_argument("--base_steps", type=int, default=200, help="of pretraining")
    parser.add_argument("--kinds", default="lora,mora,full")
    parser.add_argument("--out", type=Path, default=Path("results/uuid_memorisation_cpu"))
    return parser.parse_args(namespace=argparse.Namespace(started=time.monotonic()))


if __name__ == "__main__":
    main()
