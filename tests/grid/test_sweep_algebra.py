"""Sweeps are put together of axes."""

import pytest

from ehr_scaling.grid.sweeps import axis, chain, product, zipped


def test_products_zips_and_chains():
    sizes, seeds = axis("size", ("a", "b")), axis("seed", (1, 2))
    assert product(sizes, seeds) == [
        {"size": "a", "seed": 1},
        {"size": "a", "seed": 2},
        {"size": "b", "seed": 1},
        {"size": "b", "seed": 2},
    ]
    assert zipped(sizes, seeds) == [{"size": "a", "seed": 1}, {"size": "b", "seed": 2}]
    assert product(zipped(sizes, seeds), axis("rate", (0.5,)))[1] == {"size": "b", "seed": 2, "rate": 0.5}
    assert chain(zipped(sizes, seeds), product(sizes, seeds)) == [
        {"size": "a", "seed": 1},
        {"size": "b", "seed": 2},
        {"size": "a", "seed": 2},
        {"size": "b", "seed": 1},
    ]
    assert chain(axis("size", ("a", "b", "a")), [{"size": "a", "seed": 1}, {"seed": 1, "size": "a"}]) == [
        {"size": "a"},
        {"size": "b"},
        {"size": "a", "seed": 1},
    ]
    assert product() == [{}] and product(sizes, []) == [] == chain()


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="size from two sweeps"):
        product(axis("size", "ab"), axis("size", "a"))
    with pytest.raises(ValueError):
        zipped(axis("size", "ab"), axis("seed", (1,)))
