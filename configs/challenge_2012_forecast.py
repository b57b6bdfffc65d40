"""The reference study and one budget more, 3e13 FLOPs: do the forecasts hold that were filed before it?

    python -m launch.study --config=configs/challenge_2012_forecast.py --config.data.split_file=p12_splits.csv:split1

Twelve runs beside those of challenge_2012_reference.py, as much compute again: two hours of 2 CPU cores. In
a copy of the reference study's work directory without its grid/, only these are trained. The sizes are those of the
ladder around the 141 k that were forecast; studies/challenge_2012_forecast/claims.yaml was filed before the first run.
Best came out 160 k, at 1.629 nats a token where 1.639 [1.625, 1.652] had been forecast.
"""

from ml_collections import ConfigDict

from ehr_scaling.configs import base, challenge_2012_reference
from ehr_scaling.grid.sweeps import Point, chain

SEALED = {"budgets": (3e13,), "sizes": ("56k", "101k", "151k", "332k", "443k"), "fractions": (1.0,)}
MORE = {"sizes": ("101k", "151k"), "seeds": (43,), "dear": float("inf")}  # an AUROC needs three


def sweep(config: ConfigDict) -> list[Point]:
    """The sealed budget, then the runs of the reference study."""
    sealed = challenge_2012_reference.changed(config, **SEALED)
    more = challenge_2012_reference.changed(sealed, **MORE)
    return chain(base.sweep(sealed), base.sweep(more), challenge_2012_reference.sweep(config))


def get_config() -> ConfigDict:
    c = challenge_2012_reference.get_config()
    c.title = "Challenge 2012, forecast"
    return c
