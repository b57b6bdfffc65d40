"""Made-up tables of studies that varied more than size and compute, for tests."""

import numpy as np
import simulated


def rates(optimum=lambda N: 1.0, sizes=(3e4, 1e5, 3e5, 2e6), multiples=(0.25, 0.5, 1, 2, 4), seeds=2, noise=0.004,
          D=3e6, kind="standard", curvature=0.04, seed=0):  # fmt: skip
    """Runs of each size at several multiples of the rule's rate; the loss turns at `optimum(N)`, steeper above it."""
    rng = np.random.default_rng(seed)
    out = []
    for N in sizes:
        for multiple in multiples:
            u = np.log2(multiple / optimum(N))
            for s in range(seeds):
                value = simulated.loss(N, D) + curvature * u**2 * (1.3 if u > 0 else 1) + noise * rng.standard_normal()
                run = f"{kind}-{N:g}-{multiple:g}-{s}"
                out.append(
                    {"run": run, "cell": run, "size": f"{N:g}", "seed": s, "N": N, "D": D, "C": 6 * N * D,
                     "loss": value, "lr": 0.8 * multiple / N**0.5, "rate_multiple": multiple,
                     "parametrization": kind, "schedule": "cosine", "optimizer": "adamw"}
                )  # fmt: skip
    return out


def repeated(
    fractions=(0.125, 0.25, 0.5, 1.0), sizes=(3e4, 3e5), passes=(1, 2, 4, 8, 16, 32), U=1e6, seeds=2, noise=0.01
):
    """Runs for so many passes over a fraction of U tokens; small fractions are learnt by heart."""
    rng = np.random.default_rng(1)
    out = []
    for N in sizes:
        for f in fractions:
            for p in passes:
                for s in range(seeds):
                    value = simulated.loss(N, p * f * U) + 0.002 * (N / 3e4) ** 0.5 * p / f**0.8
                    run = f"{N:g}-{f:g}-{p}-{s}"
                    out.append(
                        {"run": run, "cell": run, "N": N, "D": p * f * U, "C": 6 * N * p * f * U, "seed": s,
                         "loss": value + noise * rng.standard_normal(), "fraction": f, "unique_tokens": f * U,
                         "patients": 800 * f, "passes": p}
                    )  # fmt: skip
    return out


def both_ways(difference=0.0, noise=0.01, seeds=3, sizes=(3e4, 1e5, 3e5), lengths=(1e6, 2e6, 4e6), seed=0):
    """Cosine runs, trunks, and branches whose loss differs; the branches of a trunk share half of their noise."""
    rng = np.random.default_rng(seed)
    out = []
    for N in sizes:
        for s in range(seeds):
            trunk, shared = f"trunk-{N:g}-{s}", noise * rng.standard_normal() * 0.5**0.5
            base = {"N": N, "seed": s, "optimizer": "adamw", "parametrization": "standard"}
            C = 6 * N * max(lengths) * 0.8
            out.append({**base, "run": trunk, "cell": trunk, "D": C / 6 / N, "C": C, "own_flops": C, "phase": "hot",
                        "schedule": "wsd", "loss": simulated.loss(N, C / 6 / N) + 0.1})  # fmt: skip
            for D in lengths:
                expected, C = simulated.loss(N, D), 6 * N * D
                for way, name in (("cosine", ""), ("wsd", trunk)):
                    own = rng.standard_normal() * noise
                    value = own if way == "cosine" else difference + shared + own * 0.5**0.5
                    run = f"{way}-{N:g}-{D:g}-{s}"
                    out.append(
                        {**base, "run": run, "cell": run, "D": D, "C": C,
                         "own_flops": C if way == "cosine" else 0.2 * C, "phase": "cooled", "schedule": way,
                         "trunk": name, "loss": expected + value}
                    )  # fmt: skip
    return out
