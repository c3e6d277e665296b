"""Feed TensorFlow from a dataset: batches are NumPy arrays, decoded in threads of this process.

    python examples/feed_tensorflow.py DATASET [EPOCHS]

DATASET is a path or URL that was converted before; pip install tensorflow.
"""

import sys

import tensorflow as tf

import pcrstore


def main(url: str, epochs: int) -> None:
    """Train."""
    ds = pcrstore.open(url)
    loader = pcrstore.NumpyLoader(ds, batch_size=32, size=64, fidelity=2)
    batches = tf.data.Dataset.from_generator(
        lambda: loader,  # each iteration of it is the next epoch
        output_signature=(
            tf.TensorSpec((None, 64, 64, 3), tf.uint8),
            tf.TensorSpec((None,), tf.int64),
        ),
    )
    batches = batches.apply(tf.data.experimental.assert_cardinality(len(loader))).prefetch(2)
    layers = tf.keras.layers
    model = tf.keras.Sequential(
        [
            layers.Rescaling(1 / 255),
            layers.Conv2D(16, 3, strides=2, activation="relu"),
            layers.Conv2D(32, 3, strides=2, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(len(ds.classes)),
        ]
    )
    model.compile("adam", tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    for epoch in range(epochs):
        history = model.fit(batches, shuffle=False, verbose=0)
        print(f"epoch {epoch}: loss {history.history['loss'][0]:.3f}")
    print(loader.stats())


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(sys.argv[1], int((sys.argv[2:] or ["3"])[0]))
