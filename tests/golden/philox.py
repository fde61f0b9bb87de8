"""Philox4x32-10 (Salmon et al., SC'11) and what convoy draws with it, written apart from the crate's, for arrays of counters."""

import numpy as np

MASK = np.uint64(0xFFFFFFFF)
INIT, AUGMENT, TEST, COLOR, DROPOUT = 0, 2, 5, 7, 16  # rng::stream


def philox4x32(counter, key):
    """The four words of each counter: arrays or numbers below 2^32 in, four uint64 arrays of such numbers out."""
    c = [np.asarray(word, dtype=np.uint64) for word in counter]
    k = [int(word) for word in key]
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        k0, k1 = np.uint64(k[0]), np.uint64(k[1])
        c = [(p1 >> np.uint64(32)) ^ c[1] ^ k0, p1 & MASK, (p0 >> np.uint64(32)) ^ c[3] ^ k1, p0 & MASK]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def blocks(seed, stream, step, first, end):
    """The words of blocks first..end, [blocks, 4]."""
    block = np.arange(first, end, dtype=np.uint64)
    return np.stack(np.broadcast_arrays(*philox4x32([block, stream, step, 0], [seed & 0xFFFFFFFF, seed >> 32])), 1)


def words(seed, stream, step, n):
    """The first n words."""
    return blocks(seed, stream, step, 0, -(-n // 4)).reshape(-1)[:n]


def unit(word):
    """Uniform in [0, 1): the upper 24 bits."""
    return (word >> np.uint64(8)) / 2.0**24


def normal(seed, stream, step, n):
    """n numbers of N(0, 1) by Box-Muller in f64, rounded to f32; two of each block."""
    out = np.empty(2 * -(-n // 2), dtype=np.float32)
    for first in range(0, len(out) // 2, 1 << 18):  # what the processor's caches hold
        end = min(first + (1 << 18), len(out) // 2)
        w = blocks(seed, stream, step, first, end)
        radius = np.sqrt(-2 * np.log((w[:, 0] + 1.0) / 2.0**32))
        angle = 2 * np.pi * (w[:, 1] / 2.0**32)
        out[2 * first : 2 * end : 2] = radius * np.cos(angle)
        out[2 * first + 1 : 2 * end : 2] = radius * np.sin(angle)
    return out[:n]


def dropout_mask(shape, rate, stream, counter):
    """Which elements dropout keeps: f64 zeros and ones."""
    seed = counter[0] | counter[1] << 32
    threshold = min(round(rate * 2**32), 2**32 - 1)
    return (words(seed, stream, counter[2], int(np.prod(shape))) >= threshold).reshape(shape).astype(np.float64)
