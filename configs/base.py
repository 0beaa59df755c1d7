"""Every field of a run, with its unit and legal values. The other configs start from `base()` and
change some.

`lfl_jax.config` turns the result into validated frozen dataclasses, once; code reads those. Tuples,
never lists: `--config.adapter.targets="('q','v')"`. A field of the form "name:n" carries a number
of items.
"""

from ml_collections import config_dict


def base() -> config_dict.ConfigDict:
    """The defaults: LoRA rank 16 on all linear modules of SmolLM2-135M, sized for a laptop."""
    c = config_dict.ConfigDict()
    c.model = _model()
    c.adapter = _adapter()
    # ordered full-match regexes on "params/..." and "adapter/..." paths
    c.trainable = ("adapter/.*",)
    c.optim = _optim()
    c.train = _train()
    c.data = _data()
    c.eval = _eval()
    c.checkpoint = _checkpoint()
    c.mesh = _mesh()
    c.seed = _seed()
    c.log = _log()
    c.penalty = _penalty()
    c.analysis = _analysis()
    return c


def _model() -> config_dict.ConfigDict:
    """Which weights and which tokenizer, and what the weights are stored and computed in."""
    m = config_dict.ConfigDict()
    # a preset of lfl_jax.models.presets, whose weights `python -m lfl_jax.fetch` gets; lab-0.3m,
    # lab-1m, lab-3m, lab-10m, which the first run trains; or FILE.py:NAME, a ModelConfig
    m.name = "smollm2-135m"
    m.path = ""  # weights file to use in place of the fetched one (.gguf); "" = the fetched one
    # folder, file (tokenizer.json, .model, .gguf), fetched name, or lab-words; "" = what comes with
    # the weights
    m.tokenizer = ""
    m.init = "pretrained"  # pretrained | random (tests and benchmarks)
    # float32 | bfloat16; what trains is held in float32 whatever this says
    m.compute_dtype = "float32"
    # float32 | bfloat16 | int8 | nf4: how frozen base weights are held. int8 and nf4 (QLoRA's: 4
    # bits, quantised twice) are for the linear weights of the layers; the rest is then held in
    # compute_dtype
    m.base_dtype = "float32"
    # none | selective (keep what matrix products made) | full (recompute whole blocks)
    m.remat = "selective"
    m.attention_dropout = 0.0  # probability, on attention weights, in training only
    return m


def _adapter() -> config_dict.ConfigDict:
    """What is trained beside the frozen weights, where, and how large."""
    a = config_dict.ConfigDict()
    # none | lora | pissa | olora | loftq (over a base in int8 or nf4) | dora | vera | mora (also
    # mora_sharing1 to 4, mora_truncation, mora_decoupling) | ia3 | bottleneck | full_delta |
    # subspace | FILE.py:CLASS, a kind of your own | several joined by + ("lora+bottleneck": a Mix
    # at every target)
    a.kind = "lora"
    # R >= 1; the bottleneck's width; needed but for none, ia3, full_delta, subspace
    a.rank = config_dict.placeholder(int)
    a.alpha = config_dict.placeholder(float)  # > 0; None = 2 x rank, as in the paper
    a.dropout = 0.0  # probability, on the adapters' input, in training only
    # module names, or regexes on "layers/3/attn/q"
    a.targets = ("q", "k", "v", "o", "gate", "up", "down")
    # ((regex on "layers/3/attn/q", rank), ...); first match wins, others take adapter.rank
    a.rank_pattern = ()
    a.alpha_pattern = ()  # ((regex, alpha), ...)
    # which factor of LoRA's and DoRA's change A B starts at zero: b_zero (A random, PEFT's start) |
    # a_zero (B random). Both start at the base; their best learning rates differ
    a.init = "b_zero"
    a.scaling = "alpha/rank"  # alpha/rank | alpha/sqrt(rank) (rsLoRA): LoRA's and DoRA's scale
    # nearest (the released code) | floor (the paper): how the square's size is rounded
    a.mora_rounding = "nearest"
    # output (the released code) | input (the paper's text, read literally): DoRA's units
    a.dora_norm = "output"
    # whether DoRA's norms are differentiated, too (its paper's section 4.3 does not)
    a.dora_norm_gradient = False
    # subspace: how many numbers train, d >= 1; at most as many as the adapted weights have
    a.subspace_dim = 128
    # an adapter or run to go on from: a PEFT folder, a run directory, a .safetensors file, a
    # fetched name, or hf:ORG/NAME; "" = fresh. The other fields must describe it, and what it
    # trained besides must be in trainable
    a.path = ""
    # as path, but a first adapter that stays frozen, under a new one that the other fields describe
    a.over = ""
    # the hash (12 hex digits) of the config that trained the run directory of path or over, which
    # has to be that run at its end; "" = whatever lies there. Studies of several tasks set it
    a.start_config = ""
    return a


def _optim() -> config_dict.ConfigDict:
    """The optimizer and the learning rate over the run."""
    o = config_dict.ConfigDict()
    # adamw | lionw | sgd | adafactor | lamb | muon (the layers' matrices, A and B too; Nesterov
    # Adam for the rest) | FILE.py:NAME, a function of this section that returns an optax direction
    # such as optax.scale_by_adam()
    o.name = "adamw"
    o.lr = 1e-3  # peak learning rate
    # decay of the first moment; sgd and muon: momentum (muon's release: 0.95); adafactor has none
    o.b1 = 0.9
    o.b2 = 0.999  # decay of the second moment: adamw, lionw, lamb, and muon's Adam
    o.eps = 1e-8  # adamw, lamb and muon
    # fraction of a weight removed per step at the peak, scaled by lr_t / lr (not by lr itself)
    o.weight_decay = 0.0
    o.clip = 1.0  # global norm over what trains; 0 = off
    # cosine | linear | trapezoid | constant | FILE.py:NAME, a function of this section, steps and
    # warmup steps
    o.schedule = "cosine"
    o.warmup_steps = 0  # optimizer steps; 0 = use warmup_fraction
    o.warmup_fraction = 0.1  # of all steps
    o.final_fraction = 0.01  # cosine, linear: learning rate at the end, as a fraction of the peak
    o.cooldown_fraction = 0.2  # trapezoid: last part of all steps, linear to 0
    # LoRA+: learning rate of the adapters' B over that of A; the paper's rule of thumb is 16
    o.lora_plus = 1.0
    return o


def _train() -> config_dict.ConfigDict:
    """How long the run is, and how many rows a step takes."""
    t = config_dict.ConfigDict()
    t.steps = 0  # optimizer steps; 0 = from tokens or epochs
    t.tokens = 0.0  # tokens, padding of rows included, rounded to whole steps; 0 = from epochs
    t.epochs = 1.0  # passes over the training source (used when steps and tokens are 0)
    # directory of a longer run with a trapezoid schedule, to start from its checkpoint
    t.branch_from = ""
    t.batch = 2  # sequences (packed rows) per optimizer step, over all devices
    # sequences per forward pass, over all devices; 0 = the whole batch; must divide it
    t.microbatch = 0
    return t


def _data() -> config_dict.ConfigDict:
    """What is trained on, how it becomes text, and how texts share rows."""
    d = config_dict.ConfigDict()
    # a name of lfl_jax.data.sources.SOURCES, tfds:DIR, or FILE.py:NAME, a function of your own;
    # several with weights are drawn from at these rates (shares of the examples):
    # "metamath:0.9,c4:0.1"; the first one is tested on, and train.epochs are passes over it. The
    # first one may have weight 0, to be tested on and not trained on: "metamath:0,c4"
    d.source = "word_problems"
    # a file, or a folder of shards: .jsonl, .json, .csv, .tsv (each also .gz or .zst), .parquet,
    # .arrow, or what datasets' save_to_disk wrote; used in place of source
    d.path = ""
    # held-out files of your own, of the same forms, for choices (dev) and for tests; "" = splits of
    # the source's own, or 2 % of its prompts each
    d.dev_path = ""
    d.test_path = ""
    # which columns of a file are what: "ROLE=COLUMN,..." with the roles prompt, response, context
    # (put after the prompt), system, history (earlier [question, answer] pairs), messages (a
    # conversation), cluster (rows to hold out together), text (documents); "-COLUMN" leaves one out
    # on purpose; "" = by the names of published datasets
    d.columns = ""
    d.size = 2000  # examples drawn by generated sources
    # what generated sources generate; None = seed.data. Set, seed.data is the order of examples
    # alone, so that runs with different orders are tested on the same items
    d.seed = config_dict.placeholder(int)
    # source word_problems: of so many problems, how many are of level 1 (one step, numbers to 21),
    # level 2 (two steps) and level 3 (up to six steps, told in sentences); three whole numbers >=
    # 0. Held-out problems are drawn alike
    d.levels = (0, 0, 1)
    # sources lab_*: the seed of the lab's facts, rule, keys and languages, from 0 to 2^32 - 1;
    # seed.data orders them and draws training text
    d.world = 0
    # source lab_cpt: the share of the source language's transitions that the target language keeps,
    # 0 to 1: how far what is trained on is from what the base knows
    d.shared = 0.75
    d.seq_len = 256  # tokens per packed row
    # a name of lfl_jax.text.chat.TEMPLATES, "tokenizer": the chat template it carries, or
    # FILE.py:NAME, your own
    d.template = "plain"
    # the token that ends an answer, in training and generation, such as "<|im_end|>"; "" = the EOS
    d.end_token = ""
    # a sham control: every training prompt is answered with another example's response, drawn by
    # data.seed (seed.data without it); of a mix, those of its first source. What is tested stays
    d.shuffle_responses = False
    d.loss_turns = "all"  # all | last: which answers of a conversation carry loss
    d.uuid_prompt = "{key}"  # source uuid: the question that the template wraps; holds {key}
    d.uuid_hyphens = False  # source uuid: whether its UUIDs are written with hyphens
    d.too_long = "error"  # error | skip | truncate: an example longer than seq_len
    # how examples share rows. first_fit: whole, in the first of pack_bins open rows with room |
    # concat: joined end to end and cut every seq_len tokens, nothing dropped, for documents |
    # ratio: as llm-foundry's BinPackCollator with its packing_ratio, every int(pack_bins x
    # packing_ratio) examples into pack_bins rows, the longest first; what does not fit waits for
    # the next group, and an epoch has whole groups only. pack_bins is then llm-foundry's device
    # batch: Magicoder's 111,183 examples at ratio 3, 6 rows a device, 192 in all, are the paper's
    # 193 steps an epoch
    d.packing = "first_fit"
    d.packing_ratio = 1.0  # packing ratio: examples per row, at least 1
    d.pack_bins = 16  # open rows of the first-fit packer; rows of a group of packing ratio
    # streams that the examples are dealt into, each packed into its own part of a batch's rows. A
    # process tokenises those of its own devices alone: on many hosts set it to their number, or to
    # the largest number that they may be. It must divide the rows of a microbatch
    d.streams = 1
    # isolate: examples of a row do not see each other, positions restart | attend: a row is one
    # sequence, EOS between
    d.cross_document = "isolate"
    return d


def _eval() -> config_dict.ConfigDict:
    """What is measured, on how many items, when and how."""
    e = config_dict.ConfigDict()
    # "name:n" = n items, evenly spread over the set (0 = all); a name of evals.tasks.TASKS or
    # FILE.py:NAME
    e.tasks = (
        "source_test:16",
        "gsm8k:8",
        "target_nll:40",
        "source_nll:16",
        "hellaswag:40",
        "arc_challenge:40",
        "winogrande:40",
    )
    # None = the numbers in tasks; 0 = all items; n = n items of each
    e.limit = config_dict.placeholder(int)
    # as tasks, of the base alone: "source_test_shots:16" is what prompting alone buys
    e.base_tasks = ()
    e.base_shots = 4  # worked training examples in the prompts of source_test_shots
    e.every = 0  # optimizer steps between evaluations of every_tasks; 0 = only at the end
    e.every_tokens = 0.0  # or tokens between them, padding of rows included, rounded to whole steps
    # or so many evaluations at steps that grow by a constant factor, from the first step to the
    # last: 8 of a run of 128 steps are at 1, 2, 4, 8, 16, 32, 64, 128. Steps that round to the same
    # one are evaluated once. 0 = none; else at least 2
    e.log_spaced = 0
    e.every_tasks = ("target_nll:16",)
    e.rows = 1  # rows per scoring batch (fixed, so that scores cannot move)
    e.seq_len = 512  # tokens per scoring row
    e.max_new_tokens = 128  # per generated answer
    e.generate_rows = 8  # prompts decoded together
    e.shots = 0  # GSM8K few-shot examples in the prompt
    # fixed (the same shots for all) | lm_eval (the harness's draw; needs GSM8K train)
    e.shots_from = "fixed"
    e.samples = 1  # programs drawn of each problem (humaneval, mbpp); pass@k needs k of them
    # of those draws; 0 = greedy. The paper: 0.2 with 50 samples, and 0.8 with 256 for pass@k
    e.temperature = 0.0
    e.top_p = 1.0  # nucleus of those draws; the paper: 0.95
    # run generated programs also where the machine cannot isolate them fully
    e.allow_weak_sandbox = False
    # text for source_nll: .txt (paragraphs), .jsonl with "text", or lfl:lab, the lab's own held-out
    # source text; "" = the fetched default
    e.source_text = ""
    # look for every item of tasks in the training source, and score also without those found
    e.decontaminate = True
    # your own data for a task, "DATASET=PATH" each: ("mmlu-test=DIR", "math-test=FILE.jsonl")
    e.files = ()
    return e


def _checkpoint() -> config_dict.ConfigDict:
    """When the run is saved, and which checkpoints are kept."""
    k = config_dict.ConfigDict()
    k.every = 20  # optimizer steps; 0 = only at the end
    # latest checkpoints kept, beside the best: two at most by default (each: what trains, and its
    # moments)
    k.keep = 1
    k.best = "target_nll"  # the evaluation whose lowest value marks the best checkpoint
    return k


def _mesh() -> config_dict.ConfigDict:
    """How the devices share batch and weights."""
    h = config_dict.ConfigDict()
    h.data = 1  # devices; one of the three may be -1: all that remain
    h.fsdp = -1  # the same devices split the batch and hold a part of each weight
    h.tensor = 1  # devices that share each weight's products
    # choose the three by the number of devices and their memory, the model, what trains and the
    # batch, and say why; they are then left as they are above
    h.auto = False
    return h


def _seed() -> config_dict.ConfigDict:
    """What is drawn at random, each by a seed of its own."""
    s = config_dict.ConfigDict()
    s.data = 0  # the order of examples; what generated sources generate, without data.seed
    s.init = 0  # the adapter's first values, and a random model's weights
    s.dropout = 0  # which inputs are dropped
    s.sample = 0  # draws in evaluations with a temperature
    return s


def _log() -> config_dict.ConfigDict:
    """Where the numbers of the run go."""
    g = config_dict.ConfigDict()
    g.every = 1  # optimizer steps between records of metrics.jsonl
    g.tensorboard = True  # the numbers of metrics.jsonl in tensorboard/, too
    # a project of Weights & Biases (extra wandb); "" = none. WANDB_MODE=offline sends nothing
    g.wandb = ""
    # the group of that project that the run belongs to; a study sets its name; "" = none
    g.wandb_group = ""
    # "10:15" = a trace of steps 10 to 15 in the run directory's profile/, for TensorBoard; "" =
    # none
    g.profile = ""
    return g


def _penalty() -> config_dict.ConfigDict:
    """What keeps the model near its base, added to the training loss; 0 costs nothing."""
    p = config_dict.ConfigDict()
    # weight, >= 0, of ||W - W0||^2, summed over all entries of what trains; of an adapter, of the
    # weight change that it makes (so not for bottleneck). Not decoupled as optim.weight_decay is:
    # its gradient 2 x weight x (W - W0) goes through the optimizer
    p.l2 = 0.0
    # weight, >= 0, of KL(base || tuned), nats per target token, of the next-token distributions
    # without the target token, renormalised. Takes a second forward pass, of the base
    p.non_target_kl = 0.0
    return p


# words for full finetuning -> patterns of what trains. full_linear: the seven matrices of a layer
# that LoRA adapts, without embedding, head and norms
FULL = {
    "full": ("params/.*",),
    "full_linear": (
        "params/layers/attn/(q|k|v|o)",
        "params/layers/mlp/(gate|up|down)",
    ),
}
KINDS = {
    *("lora", "pissa", "olora", "loftq", "dora", "vera", "ia3", "bottleneck", "full_delta"),
    "subspace",
    *("mora", "mora_truncation", "mora_decoupling", *(f"mora_sharing{i}" for i in (1, 2, 3, 4))),
}
# words for a kind together with another field: (kind, section, field, value)
COMPOUNDS = {
    "rslora": ("lora", "adapter", "scaling", "alpha/sqrt(rank)"),
    "qlora": ("lora", "model", "base_dtype", "nf4"),
}
SHORT = {
    "r": ("adapter", "rank", int),
    "alpha": ("adapter", "alpha", float),
    "d": ("adapter", "subspace_dim", int),
    "lr": ("optim", "lr", float),
    **{
        name: ("train", name, kind)
        for name, kind in (("steps", int), ("tokens", float), ("epochs", float))
    },
}
LENGTHS = {"steps": 0, "tokens": 0.0}  # setting one of them, or epochs, unsets these


AUTO = "mesh=auto"  # the word for config.mesh.auto
NO_RANK = {*FULL, "ia3", "full_delta", "subspace"}


def is_full(words: list[str]) -> bool:
    """Whether the words ask for full finetuning, of all parameters or of the linear weights."""
    return not FULL.keys().isdisjoint(words)


def check_words(words: list[str]) -> None:
    """ValueError for words that say two things about one: full,lora or full,r=4 or r=4,r=8."""
    trains = [w for w in words if w in FULL or w in COMPOUNDS or set(w.split("+")) <= KINDS]
    lengths = [w for w in words if w.partition("=")[0] in ("steps", "tokens", "epochs")]
    refuse_several(
        trains,
        "both say what trains; two kinds at every weight are one word, such as lora+bottleneck",
    )
    refuse_several(lengths, "both say how long")
    for name in SHORT:
        refuse_several([w for w in words if w.startswith(f"{name}=")], "give one")
    ranks = [w for w in words if w.partition("=")[0] in ("r", "alpha")]
    if ranks and trains and set(trains[0].split("+")) <= NO_RANK:
        raise ValueError(f"{trains[0]} has no rank: leave out {ranks[0]}")


def refuse_several(words: list[str], why: str) -> None:
    """ValueError where there are two different words."""
    if len(set(words)) > 1:
        raise ValueError(f"{' and '.join(dict.fromkeys(words))} contradict each other: {why}")


def apply(c: config_dict.ConfigDict, argument: str) -> set[str]:
    """Apply the words that every config shares; returns those that it did not know.

    "lora", "lora+bottleneck", "rslora", "qlora", "full", "full_linear" choose what trains; "r=64",
    "alpha=32", "lr=2e-4", "steps=20" set one field each; "mesh=auto" chooses the mesh. Raises
    ValueError for words that contradict each other.
    """
    unknown, words = set(), [word for word in argument.split(",") if word]
    check_words(words)
    for word in words:
        name, _, value = word.partition("=")
        if word == AUTO:
            c.mesh.auto = True
        elif word in FULL:
            c.adapter.kind, c.trainable = "none", FULL[word]
        elif word in COMPOUNDS or set(word.split("+")) <= KINDS:
            kind, *also = COMPOUNDS.get(word, (word,))
            c.adapter.kind, c.trainable = kind, ("adapter/.*",)
            c.adapter.rank = c.adapter.rank or 16
            if also:
                c[also[0]][also[1]] = also[2]
            elif "loftq" in kind.split("+"):
                c.model.base_dtype = "nf4"
        elif value and name in SHORT:
            section, field, kind = SHORT[name]
            if section == "train":
                c.train.update(LENGTHS)
            c[section][field] = kind(value)
        else:
            unknown.add(word)
    return unknown


def _analysis() -> config_dict.ConfigDict:
    """What is measured on the weights while they train, into the run's spectra.jsonl."""
    a = config_dict.ConfigDict()
    # optimizer steps between spectra of the weight change (ranks, norms, singular values), taken
    # after the last step, too; 0 = none. Not for bottleneck, which has no weight change
    a.every = 0
    # of which weights: module names, or regexes on "layers/3/attn/q". Adapters of low rank cost
    # little; of parameters that train, the chosen ones are copied to host memory at the start
    a.modules = ("q", "k", "v", "o", "gate", "up", "down")
    return a
