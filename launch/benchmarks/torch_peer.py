"""The same decoder and training step in PyTorch, to be measured beside ours; needs torch alone.

On a CPU in float32, on an NVIDIA GPU (`"device": "cuda"`) with bfloat16 activations by autocast.

  python launch/benchmarks/torch_peer.py '{"width": 64, "layers": 2, "heads": 4, "ff": 176, "context": 256, …}'

Compiles, says {"ready": seconds}; then answers every line on stdin, a number of seconds, by {"tokens_per_second": …,
"loss": …} of about so long a run. `training.Peer` speaks with it.
"""

import json
import os
import sys
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import distributed, nn
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

PAD = 0


def rotate(x_BxHxTxK: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    a, b = x_BxHxTxK.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def dense_mask(segments_BxT: torch.Tensor) -> torch.Tensor:
    """Causal within a patient, for SDPA."""
    context = segments_BxT.shape[1]
    causal = torch.ones(context, context, dtype=torch.bool, device=segments_BxT.device).tril()
    return ((segments_BxT[:, :, None] == segments_BxT[:, None, :]) & causal)[:, None]


def block_mask(segments_BxT: torch.Tensor) -> Any:
    """The same for FlexAttention, whose kernel skips the blocks of which nothing is seen."""
    rows, context = segments_BxT.shape

    def seen(row: Any, _: Any, query: Any, key: Any) -> Any:
        return (query >= key) & (segments_BxT[row, query] == segments_BxT[row, key])

    return create_block_mask(seen, rows, None, context, context, device=segments_BxT.device)


class Block(nn.Module):
    def __init__(self, spec: dict[str, Any]) -> None:
        super().__init__()
        width, ff = spec["width"], spec["ff"]
        self.heads = spec["heads"]
        self.attention_norm, self.mlp_norm = nn.RMSNorm(width, 1e-6), nn.RMSNorm(width, 1e-6)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.gate_up, self.down = nn.Linear(width, 2 * ff, bias=False), nn.Linear(ff, width, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, mask: Any) -> torch.Tensor:
        batch, context, width = x.shape
        qkv = self.qkv(self.attention_norm(x)).view(batch, context, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if mask is None or isinstance(mask, torch.Tensor):
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        else:
            mixed = flex_attention(q, k, v, block_mask=mask)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, context, width))
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


class Model(nn.Module):
    """Sum of the losses of a piece; head and embedding tied; PAD and padding ids masked out."""

    def __init__(self, spec: dict[str, Any]) -> None:
        super().__init__()
        width, context, padded = spec["width"], spec["context"], spec["padded"]
        self.embedding = nn.Parameter(torch.randn(padded, width) * width**-0.5)
        self.blocks = nn.ModuleList(Block(spec) for _ in range(spec["layers"]))
        self.final_norm = nn.RMSNorm(width, 1e-6)
        half = width // spec["heads"] // 2
        angle_TxF = torch.arange(context)[:, None] * 10_000.0 ** (-torch.arange(half) / half)
        ids = torch.arange(padded)
        self.register_buffer("cos", angle_TxF.cos())
        self.register_buffer("sin", angle_TxF.sin())
        self.register_buffer("bias", torch.where((ids == PAD) | (ids >= spec["vocab"]), -1e9, 0.0))

    def forward(self, tokens: torch.Tensor, mask: Any, weights: torch.Tensor) -> torch.Tensor:
        x = F.embedding(tokens[:, :-1], self.embedding)
        for block in self.blocks:
            x = block(x, self.cos, self.sin, mask)
        logits = F.linear(self.final_norm(x), self.embedding) + self.bias
        losses = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
        return (losses * weights.flatten()).sum()


class Trainer:
    """One process's share of every step."""

    def __init__(self, spec: dict[str, Any], rank: int) -> None:
        torch.manual_seed(0)
        self.device = torch.device(spec.get("device", "cpu"))
        self.processes, self.pieces = spec["processes"], spec["pieces"]
        self.tokens_a_step = spec["batch_tokens"]
        rows, context = spec["batch_tokens"] // spec["context"] // self.processes, spec["context"]
        model = Model(spec).to(self.device)
        self.parameters = list(model.parameters())
        named = list(model.named_parameters())
        decayed = [p for name, p in named if p.ndim == 2 and name != "embedding"]
        kept = [p for name, p in named if p.ndim == 1 or name == "embedding"]
        groups = [{"params": decayed, "weight_decay": 0.1}, {"params": kept, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), fused=True)
        self.loss = torch.compile(model)
        # The kernel that is fast with a mask of patients: of a GPU FlexAttention's, which a CPU has for no gradients.
        masks = {"segments": block_mask if self.device.type == "cuda" else dense_mask}
        mask = masks.get(spec["mask"])
        self.mask = None if mask is None else torch.compile(mask)
        draw = torch.Generator().manual_seed(rank)
        tokens = torch.randint(1, spec["vocab"], (rows, context + 1), generator=draw)
        batch = tokens, torch.ones_like(tokens), torch.ones(rows, context)
        self.batch = [x.to(self.device).chunk(self.pieces) for x in batch]

    def step(self) -> torch.Tensor:
        """Loss of the batch, without waiting for it."""
        targets = float(self.tokens_a_step)
        total = torch.zeros((), device=self.device)
        for tokens, segments, weights in zip(*self.batch, strict=True):
            mask = None if self.mask is None else self.mask(segments[:, :-1])
            with torch.autocast("cuda", torch.bfloat16, enabled=self.device.type == "cuda"):
                loss = self.loss(tokens, mask, weights)
            (loss / targets).backward()
            total += loss.detach()
        if self.processes > 1:
            flat = nn.utils.parameters_to_vector([p.grad for p in self.parameters if p.grad is not None])
            distributed.all_reduce(flat)
            start = 0
            for p in self.parameters:
                p.grad = flat[start : start + p.numel()].view_as(p)
                start += p.numel()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total / targets * self.processes

    def run(self, steps: int) -> tuple[float, float]:
        start = time.perf_counter()
        loss = float([self.step() for _ in range(steps)][-1])
        return time.perf_counter() - start, loss


def serve(rank: int, spec: dict[str, Any], meeting: str) -> None:
    """Rank 0 reads the lines and tells the others how many steps to make; 0 ends them."""
    alone = spec["processes"] == 1
    torch.set_num_threads(spec["threads"])
    if not alone:
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[rank]})
        distributed.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=spec["processes"])
    started = time.perf_counter()
    trainer = Trainer(spec, rank)
    trainer.run(2)
    one, _ = trainer.run(1)
    if rank == 0:
        print(json.dumps({"ready": time.perf_counter() - started}), flush=True)
    while True:
        line = sys.stdin.readline() if rank == 0 else ""
        steps = torch.tensor(max(1, round(float(line) / one)) if line.strip() else 0)
        if not alone:
            distributed.broadcast(steps, 0)
        if not steps:
            break
        taken, loss = trainer.run(int(steps))
        one = taken / int(steps)
        if rank == 0:
            print(json.dumps({"tokens_per_second": trainer.tokens_a_step / one, "loss": loss}), flush=True)


def main() -> None:
    import tempfile

    spec = json.loads(sys.argv[1])
    if spec["processes"] == 1:
        serve(0, spec, "")
        return
    with tempfile.TemporaryDirectory() as folder:
        args = spec, f"{folder}/meeting"
        others = [
            torch.multiprocessing.get_context("spawn").Process(target=serve, args=(rank, *args), daemon=True)
            for rank in range(1, spec["processes"])
        ]
        for other in others:
            other.start()
        serve(0, *args)
        for other in others:
            other.join()


if __name__ == "__main__":
    main()
