"""Random numbers that depend on names and sample numbers only: never on order, workers, world size or device."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def seed_of(*names: object) -> int:
    """A 63-bit seed from anything that prints the same everywhere, e.g. the run's seed and a part's name."""
    digest = hashlib.blake2b("\0".join(map(str, names)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@contextmanager
def seeded(*names: object) -> Iterator[None]:
    """torch's global generators seeded by these names within the block, and put back after it."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed_of(*names))
        yield


def draws(seed: int, index: Tensor, count: int) -> Tensor:
    """Uniform numbers in [0, 1), float32 [B, count]: each a function of (seed, sample number, position) and of nothing else.

    SplitMix64 (Steele, Lea & Flood, OOPSLA 2014) as a counter-based generator, in int64 arithmetic that is the same on every device.
    `index`: int64 [B].
    """
    position = torch.arange(count, device=index.device, dtype=torch.int64)
    x = index.to(torch.int64)[:, None] * 0x2545F4914F6CDD1D + position * -0x61C8864680B583EB + _signed(seed)
    x = _mix(_mix(x) + _signed(seed))
    return (_shift(x, 40)).to(torch.float32) * (1.0 / (1 << 24))


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * -0x40A7B892E31B1A47
    x = (x ^ _shift(x, 27)) * -0x6B2FB644ECCEEE15
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical shift to the right of int64 (torch's own keeps the sign)."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(seed: int) -> int:
    seed &= (1 << 64) - 1
    return seed - (1 << 64) if seed >= 1 << 63 else seed
