"""How a model is read by devices that hold it together."""

from jax.sharding import AbstractMesh

from ehr_scaling.outcomes.sampler import placing
from ehr_scaling.training import sharding
from tests.outcomes.sampler.test_simulate import make


def test_a_fused_kernel_is_left_to_devices_that_hold_the_whole_model():
    """XLA would have to cut what it does not know."""
    fused = make()[0].clone(attention="splash")
    alone, together = (placing.divisible(AbstractMesh(sizes, sharding.AXES), fused) for sizes in ((2, 1, 1), (1, 1, 2)))
    assert alone is fused and together == fused.clone(attention="blocked")
