"""The study of arXiv 2505.22964 on MIMIC-IV: sizes of 1 M to 1 B body parameters, for GPUs or TPUs.

About 0.3 G tokens of timelines (the published study trained on 267 M), so all but the lowest budgets repeat patients,
up to 160 times for 26 M parameters at 1e19: every table shows passes beside D. Budgets from 3e16 to 1e19 FLOPs; the
whole grid of 5 budgets, 6 sizes and 2 seeds is 1.7e20 FLOPs, 5 days of one H100 at 40 % of its peak, which small models
do not reach: print it with --dry_run first, and leave out budgets with --config.grid.budgets and .sizes.

What of it has been seen to hold, and what has not: the recipe (mixing, Muon, one matrix for embedding and head, fused
values) was measured at 7 k to 56 k body parameters on generated patients and Challenge 2012 (docs/recipes.md), not at
these sizes and not on MIMIC-IV; --config=configs/published.py:mimic_iv is the seed study's. Rates and batch are a
common starting point for these sizes (GPT-3's table, scaled by width) at 1e9 tokens, not tuned here; how they go with
batch and length was found at 4e4 to 7e6 tokens. From 3.6 k to 793 k parameters on generated patients
(configs/transfer.py) the rule, whose rates fall as 1 / width, stayed within half a factor of two of the best; under µP
the best rate fell by 1.3 [.9, 1.7] factors of two. From there to 1 B nothing has been seen. This config has not been
run on the full data.
"""

from ml_collections import ConfigDict

from ehr_scaling.configs import base

sweep = base.sweep

# Sizes around the optimum that N ∝ C^0.58 predicts from 1 M parameters at 3e16, so that budgets can be bracketed.
SIZES = {
    3e16: ("1.2m", "1.8m", "2.7m", "4.8m", "7.6m", "11m"),
    1e17: ("1.8m", "2.7m", "4.8m", "7.6m", "14m", "26m"),
    1e18: ("7.6m", "14m", "26m", "40m", "85m", "127m"),
    3e18: ("14m", "26m", "40m", "85m", "127m", "278m"),
    1e19: ("26m", "57m", "127m", "278m", "566m", "1b"),
}


def get_config() -> ConfigDict:
    c = base.get_config()
    c.title = "MIMIC-IV"
    c.data.source = "mimic-iv"
    c.data.context = 2048
    c.data.block = 16
    c.model.dtype = "bfloat16"
    c.training.rate.peak = 6e-4
    c.training.rate.at_width = 768
    c.training.rate.at_tokens = 1e9
    c.training.batch.sequences = 128  # 0.26 M tokens at 1e9 tokens
    c.training.batch.at_tokens = 1e9
    c.training.batch.exponent = 0.5
    c.training.checkpoint_seconds = 600.0
    c.validation.sequences = 2048
    c.outcome.tasks = (
        *("hospital_mortality", "icu_admission", "prolonged_stay", "composite", "length_of_stay"),  # the same futures
        *("in_hospital_death_24h", "icu_mortality_24h", "icu_readmission", "readmission_30d", "drg"),
    )
    c.outcome.new_tokens = 512
    c.outcome.samples = 4000
    c.outcome.copies = 8
    c.grid.budgets = tuple(SIZES)
    c.grid.sizes = tuple(SIZES.values())
    c.grid.seeds = (1, 2)
    return c
