"""Every setting of a study, with the reason for its value. The other configs start from this one.

The recipe (mixing, tied, optimizer) is the one that configs/recipes.py found to need least compute for its loss;
configs/published.py has the seed study's.
"""

from ml_collections import ConfigDict, config_dict

from ehr_scaling.errors import UserError
from ehr_scaling.grid.sweeps import Point, axis, product

DEAR_SEEDS = 2  # the fewest that tell a scatter


def get_config() -> ConfigDict:
    c = ConfigDict()
    c.title = ""  # the report's first line says which data it rests on; this names the study

    c.data = ConfigDict()
    c.data.source = "synthetic"  # synthetic, challenge-2012, mimic-iv, mimic-iv-demo or meds
    c.data.raw = config_dict.placeholder(str)  # folder of the raw records; none: download, or generate
    c.data.ed = config_dict.placeholder(str)  # folder of a MIMIC-IV-ED release, where raw has no ed/
    c.data.download = False  # fetch a credentialed release with your PhysioNet account; open ones are always fetched
    c.data.url = "https://physionet.org"  # base URL of PhysioNet or of a mirror of it
    c.data.patients = 20_000  # of the generated source; the others take all there are
    c.data.layout = ""  # of the generated source: "mimic-iv" writes and reads MIMIC-IV's own files
    c.data.fraction = 0.01  # of MIMIC-IV 3.1's row counts, with that layout
    c.data.splits = (0.8, 0.1, 0.1)  # of patients: train, validation, test
    # Instead of the fractions: a CSV or parquet file with a row a patient, subject_id and split, as benchmarks publish
    # theirs; where it has several splits side by side, FILE:COLUMN names one. Who is not in it is left out
    c.data.split_file = config_dict.placeholder(str)
    c.data.seed = 0  # of generation, split and packing; training seeds are the grid's
    c.data.preset = "clean"  # or ethos_ares, ethos_paper: those programs' tokens
    # Of MIMIC-IV: events stand where they were "known", or where they "happened" (none: clean known, ethos_* happened)
    c.data.times = config_dict.placeholder(str)
    c.data.tables = ()  # of MIMIC-IV, beside the preset's: icu/chartevents, icu/inputevents, icu/outputevents, …
    # Of a MEDS data set: which program wrote its codes (none: what they show); other: keep them as they are
    c.data.dialect = config_dict.placeholder(str)
    c.data.may_lose = ()  # families of codes of which every event may be left out; else that stops the work
    c.data.code_maps = config_dict.placeholder(str)  # folder with ICD-9→10 and drug→ATC tables
    c.data.memory_gb = 4.0  # of all processes that read MIMIC-IV; it takes about 1, whatever the number of patients
    c.data.beam = ()  # flags of an Apache Beam pipeline to prepare the data with, such as ("--runner=FlinkRunner",)
    c.data.context = 128  # T, tokens a sequence
    c.data.block = 16  # sequences a record on disk; larger records read faster
    c.data.phases = 1  # sets of windows, shifted against each other; pass i over the data reads set i mod phases
    c.data.sampling = "token"  # every token once a pass; "patient": one window of every patient
    c.data.skip_damaged = False  # train without the rows of a damaged file, which is named, instead of stopping
    c.data.read_timeout = 300.0  # seconds without a batch after which a reader counts as hung

    # What is to differ from the preset (none: as there). tokenizer.DEFAULTS says what each of them means.
    c.data.tokens = ConfigDict()
    c.data.tokens.intervals = config_dict.placeholder(object)  # 13, 19, or lower bounds in minutes
    c.data.tokens.bins = config_dict.placeholder(int)  # of values
    c.data.tokens.value_tokens = config_dict.placeholder(str)  # "separate": LAB Q3; "fused": LAB//Q3
    c.data.tokens.top_labs = config_dict.placeholder(int)  # the most frequent ones only; 0: all
    c.data.tokens.code_depth = config_dict.placeholder(int)  # tokens of a code at most; 0: all
    c.data.tokens.min_count = config_dict.placeholder(int)  # rarer tokens fall back to their parent
    c.data.tokens.min_values = config_dict.placeholder(int)  # codes with fewer values have no bins
    # Codes and bins of fewer patients collapse: they might name somebody. None: 10, generated patients 0
    c.data.tokens.min_patients = config_dict.placeholder(int)
    c.data.tokens.timed_context = config_dict.placeholder(tuple)  # families whose last value stands in the prefix
    c.data.tokens.age = config_dict.placeholder(str)  # in the prefix: "5-year", "two-quantiles", "age-and-year"
    c.data.tokens.context_time = config_dict.placeholder(str)  # "past" only; "single" and "last" look ahead, as ETHOS
    c.data.tokens.context_only = config_dict.placeholder(tuple)  # of these, the ones that are no event of their own

    c.model = ConfigDict()
    c.model.tied = True  # one matrix embeds tokens and predicts them; False, as in Llama: the head has its own V·d
    c.model.vocab_multiple = 128  # padded vocabulary: what matrix units like; the head is charged for it
    c.model.dtype = "float32"  # of activations; bfloat16 on GPU and TPU (no gain on a CPU)
    c.model.attention = "auto"  # the platform's kernel; or xla, blocked, cudnn (NVIDIA), splash (TPU)
    c.model.remat = "none"  # recompute in the backward pass: "dots" keeps matrix products, "full" only a layer's input
    c.model.dropout = 0.0  # of each residual branch; a lever where patients are passed over often
    # "conv": each position reads the three before it, of the same patient, ahead of attention (3·d weights a layer)
    c.model.mixing = "conv"
    c.model.parametrization = "standard"  # "mup": rates found on a narrow, shallow model hold for a large one

    c.training = ConfigDict()
    # Instead of fresh weights those of a finished model of the same shape: a study's FOLDER (of each size its best),
    # FOLDER:CELL, or a folder that launch.export wrote; rows of the vocabulary are matched by the names of tokens
    c.training.init_from = config_dict.placeholder(str)
    c.training.optimizer = "muon"  # for the matrices of the body, AdamW for the rest; or "adamw" for all
    c.training.schedule = "cosine"  # matched to each run's length; "wsd": constant, then cooldown
    c.training.trunk = False  # with wsd: one constant-rate trunk a size and seed, a cooldown branch for each D
    c.training.warmup = 0.1  # share of the steps; a fixed number would bend the law (Porian et al. 2024)
    c.training.cooldown = 0.2  # share of the steps, wsd only
    c.training.floor = 0.05  # last learning rate as a share of the peak
    # Peak = rate.peak · (width / at_width) ^ width_exponent · (sequences / batch.sequences) ^ batch_exponent
    #   · (D / at_tokens) ^ tokens_exponent: docs/recipes.md has the runs that it was fitted to
    c.training.rate = ConfigDict()
    c.training.rate.peak = 0.02
    c.training.rate.at_width = 32
    c.training.rate.width_exponent = -1.0  # of Adam, as for hidden matrices in µP (Yang et al. 2022)
    c.training.rate.batch_exponent = 0.5  # Adam's noise falls with the root of the batch (Malladi et al. 2022)
    c.training.rate.at_tokens = 6e5
    c.training.rate.tokens_exponent = -0.4  # longer runs want lower rates (Bjorck et al. 2024)
    c.training.batch = ConfigDict()  # sequences = batch.sequences · (D / at_tokens) ^ exponent, to a power of two
    c.training.batch.sequences = 4
    c.training.batch.at_tokens = 6e5
    c.training.batch.exponent = 0.5
    c.training.explored = ConfigDict()  # where these two rules were found; cells outside are marked
    c.training.explored.parameters = (1e3, 1.1e5)  # N, body
    c.training.explored.tokens = (4e4, 7e6)  # D
    c.training.weight_decay = 0.1
    c.training.clip = 1.0  # global gradient norm
    c.training.b1 = 0.9
    c.training.b2 = 0.95
    c.training.min_steps = 50  # fewer cannot meet the budget within 1 %, nor learn
    # Handed to the device at once, K = that / batch steps: a small model's step is shorter than the time to launch it
    c.training.dispatch_sequences = 64
    c.training.microbatch = 0  # sequences at a time, gradients added up; 0: the batch, on a CPU what stays in its cache
    c.training.together = 1  # runs that differ in seed, rate or weight decay alone, trained as one program, at most
    c.training.max_skipped = 20  # updates in a row without a finite gradient; each is skipped, then the run stops
    c.training.checkpoint_seconds = 60.0  # between recovery checkpoints
    # Of a run's FLOPs at most, for looks at the validation loss on the way (at 1/8, 1/4, 1/2, 3/4; on a part of the
    # sequences). They only look: a run that stopped early would have another D than the one that its law is about
    c.training.validation_share = 0.02
    c.training.mesh = ConfigDict()  # devices along each axis; 0: all that the others leave
    c.training.mesh.data = 0  # copies of the model, each with its share of the batch
    c.training.mesh.fsdp = 1  # parameters cut into so many parts, gathered as they are used
    c.training.mesh.tensor = 1  # matrices cut between devices: for models too wide for one

    c.validation = ConfigDict()
    c.validation.sequences = 512  # packed held-out sequences, the same for every run
    c.validation.batch = 64

    c.grid = ConfigDict()
    c.grid.budgets = (1e11,)  # FLOPs as flops.py counts them: body, head and causal attention
    c.grid.sizes = ("3.5k",)  # names of models/sizes.py, for every budget; or a tuple of them for each budget
    c.grid.seeds = (1, 2)
    c.grid.dear = float("inf")  # FLOPs from which on a budget has the first DEAR_SEEDS only: cheap ones can have more
    c.grid.fractions = (1.0,)  # of the training patients, nested: the 1/8 are among the 1/4
    c.grid.passes = ()  # over the data; instead of budgets: every size is trained for so many
    c.grid.rates = (1.0,)  # multiples of the peak rate that the rule gives
    c.grid.weight_decays = ()  # none: training.weight_decay
    c.grid.schedules = ()  # none: training.schedule; ("wsd", "cosine"): both, to compare

    c.outcome = ConfigDict()
    c.outcome.tasks = (
        "in_hospital_death_24h",
    )  # of ehr_scaling/outcomes/asking/tasks/tasks.yaml, which says what each one asks
    c.outcome.file = config_dict.placeholder(str)  # a YAML file with tasks of your own, of the same form
    # Of the probability: or monte_carlo (counting), reach (a simulation for each task), or exact (what two tokens
    # decide, without simulation: for outcomes that come as the next event)
    c.outcome.method = "scope"
    c.outcome.copies = 4  # simulated futures a patient
    c.outcome.new_tokens = 64  # longest future
    # Of the context, for the future, and tokens that make way when that is full; 0: new_tokens, at most half of it
    c.outcome.room = 0
    # Ask the validation patients too (as many futures again), and move each model's risks as they ask: "line", by
    # intercept and slope of the log-odds; "isotonic", by any curve that never falls, where there are some hundred
    # outcomes; or "none". The type lets the True and False of earlier configs in, which are "line" and "none".
    c.outcome.recalibrate = config_dict.FieldReference("none", field_type=object)
    c.outcome.samples = config_dict.placeholder(int)  # stays of the test split; none: all
    c.outcome.train_samples = config_dict.placeholder(int)  # of the train split, to fit the baselines to; none: all
    # Of the samples; AUROC does not depend on it, its interval does; none: as it comes
    c.outcome.positive_share = config_dict.placeholder(float)

    c.analysis = ConfigDict()
    c.analysis.draws = 1000  # bootstrap draws
    c.analysis.seed = 0

    c.tracking = ConfigDict()  # beside runs/<cell>/metrics.jsonl, which is always there
    c.tracking.tensorboard = False  # event files in runs/<cell>/ (extra: tensorboard)
    c.tracking.wandb = ""  # a project of Weights & Biases (extra: wandb)
    c.tracking.profile = False  # a trace of a few steps of each run, in runs/<cell>/profile

    c.workers = 0  # processes; 0: one a core; one a GPU or TPU chip where the models fit it; else this one alone
    return c


def sweep(config: ConfigDict) -> list[Point]:
    """The points of the grid: every budget × size × (axes of config.grid) × seed, the largest budgets first.

    Sizes for each budget let the grid follow the optimum: a size far from it costs as much as one beside it. With
    grid.passes, these take the place of budgets, and every size is trained for each of them.
    """
    g = config.grid
    name = "passes" if g.passes else "budget"
    lengths, sizes = tuple(g.passes or g.budgets), tuple(g.sizes)
    if all(isinstance(size, str) for size in sizes):
        sizes = (sizes,) * len(lengths)
    if len(sizes) != len(lengths):
        raise UserError(
            f"--config.grid.sizes holds {len(sizes)} tuples of sizes for {len(lengths)} budgets: give one a budget, or "
            "one tuple of names for all"
        )
    rest = product(
        axis("fraction", map(float, g.fractions)),
        axis("rate", map(float, g.rates)),
        axis("weight_decay", map(float, g.weight_decays or (config.training.weight_decay,))),
        axis("schedule", g.schedules or (config.training.schedule,)),
    )
    points: list[Point] = []
    for length, size_names in sorted(zip(lengths, sizes, strict=True), reverse=True):
        seeds = g.seeds[:DEAR_SEEDS] if name == "budget" and length >= g.dear else g.seeds
        points += product(axis(name, (float(length),)), axis("size", size_names), rest, axis("seed", map(int, seeds)))
    return points
