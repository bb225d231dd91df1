"""A GPT of some 0.7 million parameters over a small byte-level BPE, in JAX on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from judging import pieces

TOKENS = 2_048
LAYERS, WIDTH, HEADS, CONTEXT, BATCH = 3, 112, 4, 128, 24
RATE = 3e-3
HELD = 250_000  # bytes of the held-out half that are read

Parameters = Any


class Bpe:
    """A vocabulary learnt from some texts, the same for all that is compared."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._bpe = pieces.learnt(texts, TOKENS)
        # Each byte is one character of a token.
        self.bytes = np.array([len(self._bpe.id_to_token(i)) for i in range(TOKENS)])

    def ids(self, data: bytes) -> np.ndarray:
        return np.array(self._bpe.encode(data.decode(errors="replace")).ids, np.int32)


def start(seed: int) -> Parameters:
    """Random parameters."""
    keys = iter(jax.random.split(jax.random.key(seed), 4 * LAYERS + 2))

    def normal(*shape: int, scale: float) -> jax.Array:
        return scale * jax.random.normal(next(keys), shape)

    deep = WIDTH**-0.5 / (2 * LAYERS) ** 0.5
    return {
        "tokens": normal(TOKENS, WIDTH, scale=0.05),
        "places": normal(CONTEXT, WIDTH, scale=0.02),
        "layers": [
            {
                "heads": normal(WIDTH, 3 * WIDTH, scale=WIDTH**-0.5),
                "joined": normal(WIDTH, WIDTH, scale=deep),
                "up": normal(WIDTH, 4 * WIDTH, scale=WIDTH**-0.5),
                "down": normal(4 * WIDTH, WIDTH, scale=deep / 2),
                "norms": jnp.ones((2, WIDTH)),
            }
            for _ in range(LAYERS)
        ],
        "norm": jnp.ones(WIDTH),
    }


def _normed(x: jax.Array, scale: jax.Array) -> jax.Array:
    return x * scale * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6)


def nats(parameters: Parameters, data: jax.Array) -> jax.Array:
    """Of each token but the first given those before it, float32[n, CONTEXT], of n windows."""
    given, wanted = data[:, :-1], data[:, 1:]
    x = parameters["tokens"][given] + parameters["places"]
    mask = jnp.tril(jnp.ones((CONTEXT, CONTEXT), bool))
    for layer in parameters["layers"]:
        heads = (_normed(x, layer["norms"][0]) @ layer["heads"]).reshape(
            *x.shape[:2], 3, HEADS, WIDTH // HEADS
        )
        q, k, v = (heads[:, :, i].transpose(0, 2, 1, 3) for i in range(3))
        weights = jnp.where(mask, q @ k.transpose(0, 1, 3, 2) * (WIDTH // HEADS) ** -0.5, -1e9)
        mixed = (jax.nn.softmax(weights) @ v).transpose(0, 2, 1, 3).reshape(x.shape)
        x = x + mixed @ layer["joined"]
        x = x + jax.nn.gelu(_normed(x, layer["norms"][1]) @ layer["up"]) @ layer["down"]
    logits = _normed(x, parameters["norm"]) @ parameters["tokens"].T
    return optax.softmax_cross_entropy_with_integer_labels(logits, wanted)


def trained(
    tokens: np.ndarray, steps: int, seed: int, begin: Parameters | None = None
) -> Parameters:
    """After `steps` batches of random places of the tokens; warm-up, and a cosine to a tenth.

    begin : what it goes on from, which is left as it is; by default random parameters
    """
    schedule = optax.warmup_cosine_decay_schedule(0.0, RATE, steps // 20, steps, RATE / 10)
    tuned = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.05))

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(parameters: Parameters, state: Any, batch: jax.Array) -> tuple[Parameters, Any]:
        slope = jax.grad(lambda p: nats(p, batch).mean())(parameters)
        updates, state = tuned.update(slope, state, parameters)
        return optax.apply_updates(parameters, updates), state

    # A step takes the place of what it is given.
    parameters = start(seed) if begin is None else jax.tree.map(jnp.copy, begin)
    state = tuned.init(parameters)
    draw = np.random.default_rng(seed)
    for _ in range(steps):
        places = draw.integers(0, len(tokens) - CONTEXT, BATCH)
        batch = tokens[places[:, None] + np.arange(CONTEXT + 1)]
        parameters, state = step(parameters, state, jnp.asarray(batch))
    return parameters


def bits(parameters: Parameters, tokens: np.ndarray, sizes: np.ndarray) -> float:
    """Bits per byte, in windows of CONTEXT of which the first half is only read.

    sizes : int64[TOKENS], bytes of each token
    """
    half = CONTEXT // 2
    windows = np.lib.stride_tricks.sliding_window_view(tokens, CONTEXT + 1)[::half]
    loss, total, size = jax.jit(nats), 0.0, 0
    for at in range(0, len(windows) // 64 * 64, 64):
        batch = windows[at : at + 64]
        total += float(loss(parameters, jnp.asarray(batch))[:, half:].sum())
        size += int(sizes[batch[:, half + 1 :]].sum())
    return total / np.log(2) / size
