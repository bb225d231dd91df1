"""A byte-level GPT of about half a million parameters, in JAX on the CPU."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

LAYERS, WIDTH, HEADS, CONTEXT, BATCH = 3, 112, 4, 128, 24
RATE = 2e-3

Parameters = Any


def start(seed: int) -> Parameters:
    """Random parameters."""
    keys = iter(jax.random.split(jax.random.key(seed), 4 * LAYERS + 2))

    def normal(*shape: int, scale: float) -> jax.Array:
        return scale * jax.random.normal(next(keys), shape)

    deep = WIDTH**-0.5 / (2 * LAYERS) ** 0.5
    return {
        "bytes": normal(256, WIDTH, scale=0.02),
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
    """Of each byte but the first given those before it, float32[n, CONTEXT], of n windows."""
    given, wanted = data[:, :-1], data[:, 1:]
    x = parameters["bytes"][given] + parameters["places"]
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
    logits = _normed(x, parameters["norm"]) @ parameters["bytes"].T
    return optax.softmax_cross_entropy_with_integer_labels(logits, wanted)


def trained(data: bytes, steps: int, seed: int) -> Parameters:
    """After `steps` batches of random places of `data`; warm-up, and a cosine down to a tenth."""
    schedule = optax.warmup_cosine_decay_schedule(0.0, RATE, steps // 20, steps, RATE / 10)
    tuned = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.05))

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(parameters: Parameters, state: Any, batch: jax.Array) -> tuple[Parameters, Any]:
        slope = jax.grad(lambda p: nats(p, batch).mean())(parameters)
        updates, state = tuned.update(slope, state, parameters)
        return optax.apply_updates(parameters, updates), state

    parameters = start(seed)
    state = tuned.init(parameters)
    whole, draw = np.frombuffer(data, np.uint8), np.random.default_rng(seed)
    for _ in range(steps):
        places = draw.integers(0, len(whole) - CONTEXT, BATCH)
        batch = whole[places[:, None] + np.arange(CONTEXT + 1)].astype(np.int32)
        parameters, state = step(parameters, state, jnp.asarray(batch))
    return parameters


def bits(parameters: Parameters, data: bytes, most: int = 400_000) -> float:
    """Bits per byte of the first `most` bytes, in windows of CONTEXT of which the first half is
    only read."""
    whole, half = np.frombuffer(data[:most], np.uint8), CONTEXT // 2
    windows = np.lib.stride_tricks.sliding_window_view(whole, CONTEXT + 1)[::half].astype(np.int32)
    loss = jax.jit(nats)
    size = len(windows) // 64 * 64 or len(windows)
    parts = [loss(parameters, jnp.asarray(windows[at : at + 64]))[:, half:]
             for at in range(0, size, 64)]  # fmt: skip
    return float(np.mean(np.concatenate(parts)) / np.log(2))
