"""The shape registry: decoder sizes from 2 thousand to 1 billion body parameters, by name."""

from dataclasses import dataclass

from ehr_scaling import flops
from ehr_scaling.errors import UserError

# (width, layers), a factor 1.4 to 2 apart in body parameters. Never one layer: copying from a patient's past takes
# two (induction heads, Olsson et al. 2022, arXiv 2209.11895), so one layer would be another kind of model. The
# smallest differ in width alone, so that neighbours on an IsoFLOP curve are alike.
_WIDTH_LAYERS = (
    *(
        (8, 2),
        (12, 2),
        (16, 2),
        (20, 2),
        (24, 2),
        (32, 2),
        (40, 2),
        (48, 2),
        (64, 2),
        (64, 3),
        (96, 3),
        (96, 4),
        (128, 4),
    ),
    *((128, 6), (192, 4), (192, 6), (256, 6), (320, 6), (384, 6), (384, 8), (512, 8), (640, 8), (768, 8), (768, 12)),
    *((1024, 10), (1024, 14), (1280, 14), (1536, 14), (1536, 20), (2048, 16), (2048, 20)),
)


@dataclass(frozen=True)
class Shape:
    """Shape of a decoder: width d, layers L, attention heads, and the inner width of the gated MLP."""

    name: str
    width: int
    layers: int
    heads: int
    ff: int


def head_width(width: int) -> int:
    """Heads of 64 suit the fused attention kernels; narrow models need at least one whole head."""
    return 64 if width >= 256 else 32 if width >= 128 else 16


def _shape(width: int, layers: int) -> Shape:
    multiple = 64 if width >= 256 else 8
    ff = -(-8 * width // 3 // multiple) * multiple  # 8/3·d: a gated MLP with the parameters of a plain one of 4·d
    body = flops.parameters(width=width, layers=layers, ff=ff, vocab=0, tied=True).body
    scale, unit = (1e9, "b") if body >= 0.95e9 else (1e6, "m") if body >= 0.95e6 else (1e3, "k")
    value = body / scale
    name = f"{value:.0f}{unit}" if value >= 9.5 else f"{value:.1f}".removesuffix(".0") + unit
    return Shape(name, width, layers, max(1, width // head_width(width)), ff)


SHAPES: dict[str, Shape] = {shape.name: shape for shape in (_shape(*pair) for pair in _WIDTH_LAYERS)}


def get(name: str) -> Shape:
    """The shape called `name`. Raises UserError, with the names there are, for an unknown one."""
    if name not in SHAPES:
        raise UserError(f"unknown model size {name!r}: take one of {', '.join(SHAPES)}")
    return SHAPES[name]
