"""The training engine on an accelerator: tokens/s and MFU beside PyTorch on the same one, in bfloat16."""

import statistics
from collections.abc import Iterator

from ehr_scaling import flops, hardware
from ehr_scaling.models import sizes

from . import training
from .flags import LARGE, LONG, REPEATS, TARGETS
from .rows import Row, row
from .training import OURS, PADDED, TORCH_MASKS, VOCAB, Peer

BATCH = 131_072  # tokens a step
# Tokens at a time, of which what a layer leaves for the backward pass fits into 16 GB, of each side
PIECE = {"1.2m": 131_072, "7.6m": 65_536, "26m": 65_536, "85m": 32_768, "127m": 32_768, "396m": 16_384}


def rows() -> Iterator[Row]:
    import jax

    device = jax.devices()[0]
    if device.platform == "cpu":
        yield row("left out, for there is no accelerator", float("nan"), "")
        return
    context, version = LONG.value, training.torch_version()
    masks = TORCH_MASKS if version and device.platform in ("gpu", "cuda") else {}
    for size in LARGE.value:
        shape, piece = sizes.get(size), PIECE.get(size, 16_384)
        spec = {"size": size, "context": context, "padded": PADDED, "vocab": VOCAB, "batch_tokens": BATCH}
        spec |= {"width": shape.width, "layers": shape.layers, "heads": shape.heads, "ff": shape.ff}
        spec |= {"dtype": "bfloat16", "microbatch": piece // context}
        theirs = {"device": "cuda", "processes": 1, "threads": 1, "pieces": BATCH // piece}
        peers = {"ours": Peer(OURS, spec, False)}
        peers |= {mask: Peer(training.torch_command(), {**spec, **theirs, "mask": mask}, False) for mask in masks}
        compiled, failed = {}, []
        for name, peer in peers.items():
            try:
                compiled[name] = peer.ready()
            except RuntimeError:
                failed.append(name)
        for name in failed:
            yield row(f"{size}: left out, for it ended: {name}; see above", float("nan"), "")
            del peers[name]
        if "ours" not in peers:
            for peer in peers.values():
                peer.close()
            continue
        turns = [
            {name: peer.rate(training.SECONDS.value) for name, peer in peers.items()} for _ in range(REPEATS.value)
        ]
        for peer in peers.values():
            peer.close()
        rate = {name: statistics.median(turn[name] for turn in turns) for name in peers}
        cost = flops.training(width=shape.width, layers=shape.layers, ff=shape.ff, vocab=PADDED, context=context)
        share = hardware.mfu(rate["ours"] * cost / context, 1, device.device_kind, "bfloat16")
        yield row(f"{size}, T = {context}, bfloat16", rate["ours"] / 1e3, "ktok/s")
        if share is not None:
            yield row("  MFU", share, "of the peak rate", TARGETS.get(size))
        yield row("  compiled, with first steps", compiled["ours"], "s")
        for mask in filter(peers.__contains__, masks):
            yield row(f"  compare: PyTorch {version} compiled, {TORCH_MASKS[mask]}", rate[mask] / 1e3, "ktok/s")
            yield row("  ratio", rate["ours"] / rate[mask], "×", 1.0)
