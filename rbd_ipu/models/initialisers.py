"""Fresh weights as Keras draws them, each layer from a seed of its own.

The seed of a layer follows from the seed of the run and the layer's name. So nothing depends on the
order in which layers are made, and no global generator is read or moved.
"""

from typing import Any

from rbd_ipu.seeds import fold_in_numpy


def glorot(seed: Any, layer: str) -> Any:
    """Uniform in +- sqrt(6 / (fan_in + fan_out)), the rule of Keras for dense and convolutions."""
    from rbd_ipu._stack import keras

    return keras.initializers.GlorotUniform(seed=_layer_seed(seed, layer))


def he(seed: Any, layer: str) -> Any:
    """Normal with deviation sqrt(2 / fan_in), cut off at two deviations: for residual networks."""
    from rbd_ipu._stack import keras

    return keras.initializers.HeNormal(seed=_layer_seed(seed, layer))


def _layer_seed(seed: Any, layer: str) -> int:
    # 31 bits: what the generators of both Keras versions take as a seed.
    return int(fold_in_numpy(seed, "init", layer)[0]) & 0x7FFFFFFF
