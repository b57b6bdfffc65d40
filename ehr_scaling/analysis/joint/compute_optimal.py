"""What a joint law says of the best model at a compute: N*, D* and the loss there, with intervals.

Where C = f N D, the loss is least at N* = G (C / f)^a, D* = (C / f) / N*, with a = β / (α + β) and
G = (α A / (β B))^(1 / (α + β)) (Hoffmann et al. 2022, arXiv 2203.15556, eq. 4); E and k do not move it.
"""

from dataclasses import dataclass

import numpy as np

from ehr_scaling.analysis.joint.joint_laws import ALPHA, BETA, LOG_A, LOG_B, JointLaw
from ehr_scaling.analysis.tables.run_table import RunTable
from ehr_scaling.analysis.uncertainty import Floats, interval

SIX = 6.0


@dataclass(frozen=True)
class Optimum:
    """At C FLOPs. draws: [good draws, 3] N*, D*, L* of the run bootstrap."""

    C: float
    N: float
    D: float
    L: float
    draws: Floats

    def interval(self, name: str, level: float) -> tuple[float, float]:
        """Of "N", "D", "L", or "D/N", the tokens a parameter."""
        N, D, L = self.draws.T
        return interval({"N": N, "D": D, "L": L, "D/N": D / N}[name], level)


def optimum(law: JointLaw, C: float, flops: float = SIX) -> Optimum:
    """Args: C in FLOPs; flops, operations for each parameter and token, by which C = flops N D (`flops_of`)."""
    draws = law.draws[~np.isnan(law.draws).any(1)]
    N, D = best_sizes(law, np.vstack([law.theta[None], draws]), C / flops)
    at_draws = np.array([law.losses_of(draws[i : i + 1], N[i + 1], D[i + 1])[0] for i in range(len(draws))])
    return Optimum(C, float(N[0]), float(D[0]), float(law(N[0], D[0])), np.column_stack([N[1:], D[1:], at_draws]))


def best_sizes(law: JointLaw, theta: Floats, product: float) -> tuple[Floats, Floats]:
    """[b] N* and D* of theta [b, 6] at N D = `product`."""
    N = np.exp(best_log_size(law, theta, product))
    return N, product / N


def best_log_size(law: JointLaw, theta: Floats, product: float) -> Floats:
    """[b] log N* of theta [b, 6] at N D = `product`."""
    by_N, by_D, _ = law.scale
    alpha, beta = theta[:, ALPHA], theta[:, BETA]
    lean = np.log(alpha / beta) + theta[:, LOG_A] - theta[:, LOG_B]
    found: Floats = (lean + beta * np.log(product / by_N / by_D)) / (alpha + beta) + np.log(by_N)
    return found


def flops_of(table: RunTable) -> tuple[Floats, Floats]:
    """Operations for each body parameter and token, C / (N D), of the sizes of a table: [sizes] N ascending, and their
    medians. They fall with size where C counts the head and attention, which small models spend most on."""
    sizes = np.unique(table.N)
    ratio = table.C / (table.N * table.D)
    return sizes, np.array([np.median(ratio[table.N == N]) for N in sizes])
