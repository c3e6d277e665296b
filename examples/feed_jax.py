"""Feed JAX from a dataset: batches are NumPy arrays, decoded in threads of this process.

    python examples/feed_jax.py DATASET [EPOCHS]

DATASET is a path or URL that was converted before; pip install jax.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

import pcrstore

Parameters = dict[str, jax.Array]


def loss(parameters: Parameters, images: jax.Array, labels: jax.Array) -> jax.Array:
    """Return the mean cross entropy of a two-layer network on 8 x 8 means of the pixels."""
    means = images.reshape(len(images), 8, 8, 8, 8, 3).mean((2, 4)) / 255  # of (N, 64, 64, 3)
    hidden = jax.nn.relu(means.reshape(len(images), -1) @ parameters["first"])
    chances = jax.nn.log_softmax(hidden @ parameters["second"])
    return -jnp.take_along_axis(chances, labels[:, None], 1).mean()


@jax.jit
def step(
    parameters: Parameters, images: jax.Array, labels: jax.Array
) -> tuple[Parameters, jax.Array]:
    """Return parameters that are a little better, and the loss before."""
    value, slopes = jax.value_and_grad(loss)(parameters, images, labels)
    return jax.tree.map(lambda p, slope: p - 0.1 * slope, parameters, slopes), value


def main(url: str, epochs: int) -> None:
    """Train."""
    ds = pcrstore.open(url)
    rng = np.random.default_rng(0)
    parameters = {
        "first": jnp.asarray(rng.normal(0, 0.1, (192, 64)), jnp.float32),
        "second": jnp.asarray(rng.normal(0, 0.1, (64, len(ds.classes))), jnp.float32),
    }
    loader = pcrstore.NumpyLoader(
        ds,
        batch_size=32,
        size=64,
        fidelity=2,
        drop_last=True,  # one shape for jit
        rank=jax.process_index(),
        world_size=jax.process_count(),
    )
    for epoch in range(epochs):
        loader.set_epoch(epoch)
        values = []
        for images, labels in loader:
            parameters, value = step(parameters, jnp.asarray(images), jnp.asarray(labels))
            values.append(value)
        print(f"epoch {epoch}: loss {np.mean(values):.3f}")
    print(loader.stats())


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(sys.argv[1], int((sys.argv[2:] or ["5"])[0]))
