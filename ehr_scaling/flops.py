"""The one place where parameters and floating-point operations are counted.

The grid, the trainer and the laws all use these counts, so a cell's budget, its MFU and its place on a plot agree.
A multiply-add is two operations. Norms, softmax, rotary embedding and Adam (under 2 % from width 64 up) are left out,
as in Kaplan et al. 2020 (arXiv 2001.08361), appendix B; causal attention, the head and Muon's matrix products are not.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Parameters:
    """Parameter counts. `head` and `embedding` are V·d each; a tied head counts as head, its embedding as 0."""

    body: int
    head: int
    embedding: int

    @property
    def total(self) -> int:
        return self.body + self.head + self.embedding


# Weights of a layer's mixing for each channel, by the setting `model.mixing`: of the earlier positions it adds
MIXED = {"none": 0, "conv": 3}


def parameters(*, width: int, layers: int, ff: int, vocab: int, tied: bool, mixing: str = "none") -> Parameters:
    """Parameters of the decoder in `models/transformer.py`: QKV and output 4d², gated MLP 3·d·ff, RMSNorm scales, and
    3·d where mixing is "conv".

    `vocab` is the padded vocabulary, as the kernels see it.
    """
    block = 4 * width**2 + 3 * width * ff + (2 + MIXED[mixing]) * width
    return Parameters(body=layers * block + width, head=vocab * width, embedding=0 if tied else vocab * width)


def forward(
    *, width: int, layers: int, ff: int, vocab: int, context: int, mixing: str = "none", causal: bool = True
) -> int:
    """Operations of one forward pass over one sequence of `context` tokens.

    Body 2·(4d² + 3·d·ff), head 2·d·V and mixing by "conv" 2·3·d a token; attention scores and the weighted sum of
    values 4·d for each pair of a query and a key it may see: T(T+1)/2 pairs when `causal` (what a law should charge,
    and what flash kernels do), T² otherwise (what an unfused einsum does).
    """
    pairs = context * (context + 1) // 2 if causal else context**2
    products = 4 * width**2 + 3 * width * ff + MIXED[mixing] * width
    body = layers * (context * 2 * products + 4 * width * pairs)
    return body + context * 2 * width * vocab


def training(*, width: int, layers: int, ff: int, vocab: int, context: int, mixing: str = "none") -> int:
    """Operations of one training sequence: forward plus a backward pass of twice its cost."""
    return 3 * forward(width=width, layers=layers, ff=ff, vocab=vocab, context=context, mixing=mixing)


ITERATIONS = 5  # of Newton and Schulz, by which Muon orthogonalizes a matrix


def update(optimizer: str, *, width: int, layers: int, ff: int) -> int:
    """Operations of one update, beside those of its sequences: 0 but for "muon".

    An iteration on an n × m matrix X, n ≤ m: X Xᵀ and its product with X, 2·n²·m each, and the square of an n × n one,
    2·n³ (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon).
    """
    if optimizer != "muon":
        return 0
    sides = 4 * [(width, width)] + 3 * [(width, ff)]  # q, k, v, out; gate, up, down
    return layers * ITERATIONS * sum(4 * min(x) ** 2 * max(x) + 2 * min(x) ** 3 for x in sides)


def six_nd(body: int, tokens: int) -> float:
    """6·N·D (Kaplan et al. 2020, eq. 2.2), for comparison only. A float: the product overflows int64 at 9.2e18."""
    return 6.0 * body * tokens
