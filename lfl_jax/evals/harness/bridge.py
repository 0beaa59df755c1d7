"""Any task of lm-evaluation-harness on our models (extra `eval`; neither torch nor transformers is
needed).

The harness makes the prompts and judges the answers. Scores come from the same planner and compiled
program as our own evaluations, texts from the same decoding, and both are kept in a file, so that a
killed evaluation goes on where it was. For one process.
"""

import importlib.util
import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lfl_jax.assets import readers
from lfl_jax.core import files
from lfl_jax.data.formatting import prompt_ids
from lfl_jax.errors import UserError
from lfl_jax.evals import records
from lfl_jax.evals.batching import Scored, plan, score_items
from lfl_jax.evals.harness import documents
from lfl_jax.evals.records import RecordFile
from lfl_jax.evals.requests import Request, prefix_id, rolling, truncate
from lfl_jax.evals.run import PROBE
from lfl_jax.evals.settings import Settings
from lfl_jax.evals.task import Scorer
from lfl_jax.io.progress import progress
from lfl_jax.text.jinja import render
from lfl_jax.text.stops import truncate_at_stop
from lfl_jax.text.tokenizers import Tokenizer

log = logging.getLogger(__name__)

MAX_NEW_TOKENS = 256  # the harness's, where a task names no number
RESAMPLES = 1000  # for metrics whose standard error is bootstrapped; that of a mean has a formula
# files of their own; of no use to others
UNWANTED = ("samples", "pretty_env_info", "git_hash", "upper_git_hash")


@dataclass(frozen=True)
class Decoding:
    """How a text is generated; temperature 0 is greedy. The stop texts end it and are not part of
    it."""

    max_new_tokens: int
    stop: tuple[str, ...]
    temperature: float = 0.0
    top_p: float = 1.0


# Settings that may be left out: the value that changes nothing, and whether it is one of sampling
# only.
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


def decoding(gen_kwargs: dict[str, Any], default_tokens: int, eos: str) -> Decoding:
    """A task's generation_kwargs, read as the harness's own models do; the EOS text is one more
    stop.

    Without do_sample a temperature above 0 means sampling; with do_sample false it is ignored. When
    sampling, top_p alone cuts the distribution. Raises UserError, by name, for settings that change
    the text and are not supported.
    """
    from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs

    given = dict(normalize_gen_kwargs(gen_kwargs, default_tokens))
    stop = handle_stop_sequences(list(given.pop("until")), eos)
    tokens, sample = given.pop("max_gen_toks"), given.pop("do_sample")
    temperature, top_p = given.pop("temperature", None) or 0.0, given.pop("top_p", None) or 1.0
    refused = []
    for name, value in sorted(given.items()):
        neutral, sampling_only = NEUTRAL.get(name, (None, False))
        if value is not None and value != neutral and (sample or not sampling_only):
            refused.append(f"{name}={value!r}")
    if refused:
        raise UserError(
            f"generation_kwargs {', '.join(refused)}: not supported; there are until, max_gen_toks,"
            " do_sample,"
            " temperature and top_p"
        )
    if sample and temperature <= 0:
        raise UserError("generation_kwargs do_sample=True needs a temperature above 0")
    chosen = (float(temperature), float(top_p)) if sample else ()
    return Decoding(tokens, tuple(text for text in stop if text), *chosen)


def grouped(requests: Sequence[Request], length: int) -> list[list[Request]]:
    """Neighbours that begin alike, for the planner to compute the beginning once; the order is
    kept.

    A request joins the ones before it when that saves tokens and they fit in one row of `length`.
    """
    groups: list[list[Request]] = []
    # of the last group: tokens its contexts have in common, input tokens of all its requests
    shared = total = 0
    for request in requests:
        alone = len(request.ids) - 1
        if groups:
            n, common = len(groups[-1]), _common(groups[-1][0].context[:shared], request.context)
            apart = total - (n - 1) * max(shared - 1, 0) + alone
            together = total + alone - n * max(common - 1, 0)
            if together <= length and together < apart:
                groups[-1].append(request)
                shared, total = common, total + alone
                continue
        groups.append([request])
        shared, total = len(request.context), alone
    return groups


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    if a == b[: len(a)]:
        return len(a)
    return next(i for i, x in enumerate(a) if i == len(b) or x != b[i])


class Answers:
    """Results by request, kept in a file from batch to batch; without a file, in memory."""

    def __init__(self, path: Path | None, settings: dict[str, Any]) -> None:
        """Read what an earlier evaluation with the same settings has left; a file of other settings
        is put aside."""
        self._file = RecordFile.resume(path, settings) if path else None
        if self._file:
            self._file.start({})
        recorded = self._file.records if self._file else []
        self._known = {record["key"]: record["answer"] for record in recorded}

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def __getitem__(self, key: str) -> Any:
        return self._known[key]

    def add(self, answers: dict[str, Any]) -> None:
        """Keep new answers, JSON values, before this returns."""
        self._known |= answers
        if self._file and answers:
            self._file.append([{"key": key, "answer": answer} for key, answer in answers.items()])


class Bridge:
    """What the harness asks of a model (the methods of lm_eval.api.model.TemplateLM), answered by
    ours."""

    backend = "causal"

    def __init__(self, scorer: Scorer, settings: Settings, answers: Answers) -> None:
        super().__init__()
        self.scorer, self.settings, self.answers = scorer, settings, answers
        self.tokenizer = scorer.tokenizer
        self.truncated = 0  # requests that lost the beginning of their context

    @property
    def eot_token_id(self) -> int:
        """EOS."""
        return self.tokenizer.eos_id

    @property
    def prefix_token_id(self) -> int:
        """Stands in for an empty context."""
        return prefix_id(self.tokenizer)

    @property
    def max_length(self) -> int:
        """Input tokens of a request to score."""
        return self.settings.length

    @property
    def max_gen_toks(self) -> int:
        """Generated tokens where a task names no number."""
        return self.settings.max_new_tokens

    @property
    def tokenizer_name(self) -> str:
        """Tells tokenizers and chat templates apart."""
        return f"lfl_jax-{_fingerprint(self.tokenizer)}"

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **unused: Any
    ) -> list[int]:
        """Ids; None puts BOS first where the tokenizer has one put there, unless the text has it
        already."""
        if add_special_tokens is None:
            return prompt_ids(string, self.tokenizer)
        bos = [self.tokenizer.bos_id] if add_special_tokens and self.tokenizer.add_bos else []
        return [*bos, *self.tokenizer.encode(string)]

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The Jinja source of the tokenizer's one template; UserError when a template is wanted and
        there is none."""
        if chat_template is False:
            return None
        if self.tokenizer.chat_template is None:
            raise UserError("apply_chat_template: this model's tokenizer carries no chat template")
        if isinstance(chat_template, str):
            raise UserError(
                f"apply_chat_template={chat_template!r}: this tokenizer has one template; give True"
            )
        return self.tokenizer.chat_template

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The conversation as text; without a generation prompt its last message is left open, to
        be continued."""
        return render(self.chat_template(True), chat_history, add_generation_prompt, self.tokenizer)

    def loglikelihood(self, requests: list, disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """(log-probability, greedy) of each; the encoding of context and continuation is the
        harness's own code."""
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

    def _loglikelihood_tokens(self, requests: list, **unused: Any) -> list[tuple[float, bool]]:
        length = self.settings.length
        made = [
            truncate(Request(tuple(context), tuple(rest)), length) for _, context, rest in requests
        ]
        self.truncated += sum(request.truncated for request in made)
        return [(s.ll, s.greedy) for item in self._scored(grouped(made, length)) for s in item]

    def loglikelihood_rolling(self, requests: list, disable_tqdm: bool = True) -> list[float]:
        """Log-probability of whole texts, in windows."""
        prefix, length = self.prefix_token_id, self.settings.length
        windows = [
            rolling(self.tok_encode(request.args[0]), prefix, length) for request in requests
        ]
        scored = iter(self._scored([item for item in windows if item]))
        return [math.fsum(s.ll for s in next(scored)) if item else 0.0 for item in windows]

    def _scored(self, items: list[list[Request]]) -> list[list[Scored]]:
        """Scores of every item's requests; a batch whose items are all known is left out."""
        keys = [
            records.digest(["score", [[r.context, r.continuation] for r in item]]) for item in items
        ]
        planned = plan(items, self.settings.rows, self.settings.length)
        done = np.array([key in self.answers for key in keys])
        with progress(int(planned.figures["batches"]), "lm-eval: scoring") as advance:
            for finished in score_items(planned, self.scorer.score, done):
                self.answers.add({keys[i]: [asdict(s) for s in scored] for i, scored in finished})
                advance()
        return [[Scored(**s) for s in self.answers[key]] for key in keys]

    def generate_until(self, requests: list, disable_tqdm: bool = True) -> list[str]:
        """The text that follows each prompt, up to the first stop. Repeats of a sampled request
        draw anew."""
        asked = [self._prompt(*request.args) for request in requests]
        seen: dict[str, int] = {}
        keys = []
        for ids, how in asked:
            key = records.digest(["generate", ids, asdict(how)])
            seen[key] = seen.get(key, -1) + 1
            keys.append(records.digest([key, seen[key]]) if how.temperature else key)
        batches = self._batches(asked)
        with progress(len(batches), "lm-eval: generating") as advance:
            for batch in batches:
                if not all(keys[i] in self.answers for i in batch):
                    texts = self._texts([asked[i] for i in batch], [keys[i] for i in batch])
                    new = {
                        keys[i]: text
                        for i, text in zip(batch, texts, strict=True)
                        if keys[i] not in self.answers
                    }
                    self.answers.add(new)
                advance()
        return [self.answers[key] for key in keys]

    def _prompt(self, context: str, gen_kwargs: dict[str, Any]) -> tuple[list[int], Decoding]:
        """Ids, cut on the left to leave room for the answer, and how to go on from them."""
        how = decoding(gen_kwargs, self.max_gen_toks, self.tokenizer.eos)
        room = self.settings.window - how.max_new_tokens
        if room < 1:
            raise UserError(
                f"max_gen_toks={how.max_new_tokens} leaves no room in a context of"
                f" {self.settings.window}"
            )
        ids = self.tok_encode(context)
        self.truncated += len(ids) > room
        return ids[-room:], how

    def _batches(self, asked: list[tuple[list[int], Decoding]]) -> list[list[int]]:
        """Positions by kind of decoding, the longest prompts first."""
        kinds: dict[Decoding, list[int]] = {}
        for i, (_, how) in enumerate(asked):
            kinds.setdefault(how, []).append(i)
        rows = self.settings.generate_rows
        ordered = [sorted(kind, key=lambda i: -len(asked[i][0])) for kind in kinds.values()]
        return [kind[i : i + rows] for kind in ordered for i in range(0, len(kind), rows)]

    def _texts(self, asked: list[tuple[list[int], Decoding]], keys: list[str]) -> list[str]:
        how = asked[0][1]
        sampling = {"temperature": how.temperature, "top_p": how.top_p} if how.temperature else {}
        texts = self.scorer.generate(
            [ids for ids, _ in asked],
            max_new_tokens=how.max_new_tokens,
            stop=how.stop,
            # so a request's draws depend on it alone
            example_ids=[int(key[:7], 16) for key in keys],
            **sampling,
        )
        return [truncate_at_stop(text, how.stop) for text in texts]


def harness(scorer: Scorer, settings: Settings, answers: Answers | None = None) -> Any:
    """The model as an `lm_eval.api.model.TemplateLM`, for `lm_eval.simple_evaluate(model=...)`.

    settings.length cuts what is scored and settings.window what is generated, as max_length does
    both in the harness's own models; settings.max_new_tokens is what a task gets that names no
    number (the harness: 256).
    """
    _installed()
    from lm_eval.api.model import TemplateLM

    class Harness(Bridge, TemplateLM):
        """Ours, with the harness's own encoding of pairs."""

    return Harness(scorer, settings, answers or Answers(None, {}))


def run(
    scorer: Scorer,
    tasks: Sequence[str],
    settings: Settings,
    *,
    out: Path,
    limit: int | None = None,
    num_fewshot: int | None = None,
    data: str = "cache",
    include: str = "",
    gen_kwargs: dict[str, Any] | None = None,
    chat: bool = False,
    docs: documents.Docs = readers.docs,
    report: Callable[[str], None] = print,
) -> dict[str, dict[str, float]]:
    """Evaluate on tasks, groups or tags of the harness; {task: {"acc,none": mean,
    "acc_stderr,none": error, ...}}.

    data: "cache" reads fetched documents and local files, never the network; "hub" lets the harness
    download.
    include: a folder with more task files. limit: the first n documents of each task. num_fewshot,
    gen_kwargs: in
    place of what the tasks say. chat: prompts in the tokenizer's chat template. `out` gets
    results.json, samples_<task>.jsonl, and requests.jsonl, by which the same call goes on after a
    kill. `report` gets the harness's table. Raises UserError for unknown tasks and for documents
    that cannot be had.
    """
    _check(tasks, data, include)
    described = _describe(scorer, settings)
    model = harness(scorer, settings, Answers(out / "requests.jsonl", described))
    with documents.surroundings(offline=data == "cache") as folder:
        manager, sources = documents.index(
            tasks, folder, include, docs if data == "cache" else None, num_fewshot
        )
        found = _evaluator().simple_evaluate(
            model=model,
            tasks=list(tasks),
            task_manager=manager,
            limit=limit,
            num_fewshot=num_fewshot,
            gen_kwargs=gen_kwargs,
            apply_chat_template=chat,
            bootstrap_iters=RESAMPLES,
            torch_random_seed=None,
        )
    if model.truncated:
        log.warning(
            "%d requests lost the beginning of their context: raise config.eval.seq_len",
            model.truncated,
        )
    used = {task: splits for task, splits in sources.items() if task in found["configs"]}
    _write(out, found, {"data": data, "sources": used, "truncated": model.truncated, **described})
    report(_table(found))
    measured = {task: _numbers(metrics) for task, metrics in found["results"].items()}
    # a group may have none of its own
    return {task: numbers for task, numbers in measured.items() if numbers}


def _check(tasks: Sequence[str], data: str, include: str) -> None:
    _installed()
    if jax.process_count() > 1:
        raise UserError("lm-eval's tasks are evaluated by one process: start it on one host")
    if not tasks:
        raise UserError("name at least one task of lm-eval")
    if data not in ("cache", "hub"):
        raise UserError(f"data={data!r}: documents come from 'cache' or from 'hub'")
    if include and not Path(include).is_dir():
        raise UserError(f"include={include!r} is no folder")


def _installed() -> None:
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError(
            "lm-evaluation-harness is missing: install the eval extra: pip install 'lfl_jax[eval]'"
        )


def _evaluator() -> Any:
    import lm_eval.evaluator

    return lm_eval.evaluator


def _fingerprint(tokenizer: Tokenizer) -> str:
    special = (
        tokenizer.vocab_size,
        tokenizer.bos_id,
        tokenizer.eos_id,
        tokenizer.add_bos,
        tokenizer.chat_template,
    )
    return records.digest([*special, tokenizer.encode(PROBE)])


def _describe(scorer: Scorer, settings: Settings) -> dict[str, Any]:
    """All that an answer depends on, beside the request."""
    shapes = {name: value for name, value in asdict(settings).items() if name != "pick"}
    return {"model": scorer.tag, "tokenizer": _fingerprint(scorer.tokenizer), **shapes}


def _write(out: Path, found: dict[str, Any], ours: dict[str, Any]) -> None:
    """The harness's results and ours about them, and a file of samples per task."""
    from lm_eval.utils import handle_non_serializable, sanitize_task_name

    for task, samples in found["samples"].items():
        lines = [
            json.dumps(s, default=handle_non_serializable, ensure_ascii=False) + "\n"
            for s in samples
        ]
        files.write_text(out / f"samples_{sanitize_task_name(task)}.jsonl", "".join(lines))
    kept = {name: value for name, value in found.items() if name not in UNWANTED}
    text = json.dumps(kept | {"lfl_jax": ours}, default=handle_non_serializable)
    plain = json.loads(text, parse_constant=lambda name: None)  # NaN is not JSON
    for task, splits in ours["sources"].items():
        plain["configs"][task]["dataset_path"] = ", ".join(
            split["item"] for split in splits.values()
        )
        plain["configs"][task]["dataset_kwargs"] = None  # files that are gone
    files.write_json(out / "results.json", plain)


def _table(found: dict[str, Any]) -> str:
    from lm_eval.utils import make_table

    return make_table(found) + ("\n" + make_table(found, "groups") if "groups" in found else "")


def _numbers(metrics: dict[str, Any]) -> dict[str, float]:
    """Only what is measured: "acc,none" and the like."""
    return {
        name: float(value)
        for name, value in metrics.items()
        if "," in name and isinstance(value, (int, float))
    }
