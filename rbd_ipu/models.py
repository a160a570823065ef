"""The networks by name: the paper's, for images of any size, and a language model.

Fully connected, convolutional, ResNet-8 and ResNet-32 are the paper's; ``fc200`` and ``lenet`` are those of Li et al.
2018, "Measuring the Intrinsic Dimension of Objective Landscapes"; ``gpt`` is :mod:`rbd_ipu.gpt`.

Fresh weights are drawn as Keras draws them, each layer from a seed of its own. The seed of a layer follows from the
seed of the run and the layer's name. So nothing depends on the order in which layers are made, and no global
generator is read or moved. Importing this module does not import TensorFlow; building a network does.
"""

import importlib
from typing import Any, Callable, List, Sequence, Tuple

import numpy as np

from rbd_ipu.checks import Registry
from rbd_ipu.seeds import fold_in_numpy


def glorot(seed: Any, layer: str) -> Any:
    """Uniform in +- sqrt(6 / (fan_in + fan_out)), the rule of Keras for dense and convolutions."""
    from rbd_ipu._compat import keras

    return keras.initializers.GlorotUniform(seed=_layer_seed(seed, layer))


def he(seed: Any, layer: str) -> Any:
    """Normal with deviation sqrt(2 / fan_in), cut off at two deviations: for residual networks."""
    from rbd_ipu._compat import keras

    return keras.initializers.HeNormal(seed=_layer_seed(seed, layer))


def normal(seed: Any, layer: str, deviation: float) -> Any:
    """Normal with a deviation of its own: for language models."""
    from rbd_ipu._compat import keras

    return keras.initializers.RandomNormal(stddev=deviation, seed=_layer_seed(seed, layer))


def _layer_seed(seed: Any, layer: str) -> int:
    # 31 bits: what the generators of both Keras versions take as a seed.
    return int(fold_in_numpy(seed, "init", layer)[0]) & 0x7FFFFFFF


FC_HIDDEN = 128


def fc(shape: Tuple[int, int, int], classes: int, seed: Any) -> List[Any]:
    """Flatten, dense 128 with ReLU, dense to the classes.

    101,770 parameters for 28 x 28 x 1 and ten classes, 394,634 for 32 x 32 x 3; any shape will do.
    """
    from rbd_ipu._compat import keras

    layers = keras.layers
    return [
        layers.Flatten(name="flatten"),
        layers.Dense(FC_HIDDEN, activation="relu", kernel_initializer=glorot(seed, "hidden"), name="hidden"),
        layers.Dense(classes, kernel_initializer=glorot(seed, "logits"), name="logits"),
    ]


CNN_FILTERS = (32, 64, 64)
CNN_HIDDEN = 64
BORDER = 2  # pixels that a 3 x 3 convolution without padding takes off each side's length
LEAST = BORDER * len(CNN_FILTERS) + 1


def pools(side: int) -> Tuple[bool, bool]:
    """Whether to halve the image after the first and after the second of three convolutions.

    Not where the convolutions that follow would run out of pixels; ``side`` is the shorter side of
    the image. From 18 pixels on both are there, as in the paper.

    Example:
      >>> [pools(side) for side in (8, 10, 12, 22, 28)]
      [(False, False), (False, True), (True, False), (True, True), (True, True)]
    """
    pooled = []
    for left in (2, 1):  # convolutions that follow
        side -= BORDER
        pooled.append(side // 2 > BORDER * left)
        if pooled[-1]:
            side //= 2
    return pooled[0], pooled[1]


def cnn(shape: Tuple[int, int, int], classes: int, seed: Any) -> List[Any]:
    """Three 3x3 convolutions (32, 64, 64, no padding), pools between, dense 64, dense to classes.

    ReLU after each but the last. 93,322 parameters for 28 x 28 x 1 and ten classes, 122,570 for
    32 x 32 x 3. Small images go without a pool, see :func:`pools`: the embedded digits, 8 x 8, have
    none and 72,842 parameters.

    Raises:
      ValueError: a side of the image is shorter than seven pixels.
    """
    from rbd_ipu._compat import keras

    side = min(shape[:2])
    if side < LEAST:
        raise ValueError(f"the network 'cnn' needs images of at least {LEAST} x {LEAST} pixels, got {shape}")

    layers = keras.layers
    stack: List[Any] = []
    for index, (filters, pool) in enumerate(zip(CNN_FILTERS, (*pools(side), False)), start=1):
        name = f"conv{index}"
        stack.append(layers.Conv2D(filters, 3, activation="relu", kernel_initializer=glorot(seed, name), name=name))
        if pool:
            stack.append(layers.MaxPooling2D(2, name=f"pool{index}"))
    return [
        *stack,
        layers.Flatten(name="flatten"),
        layers.Dense(CNN_HIDDEN, activation="relu", kernel_initializer=glorot(seed, "hidden"), name="hidden"),
        layers.Dense(classes, kernel_initializer=glorot(seed, "logits"), name="logits"),
    ]


RESNET_FILTERS = (16, 32, 64)  # of the three stages


def resnet8(shape: Tuple[int, int, int], classes: int, seed: Any) -> Callable[[Any], Any]:
    """Eight layers with weights on the longest way: :func:`resnet` with one block a stage.

    78,330 parameters for 32 x 32 x 3 and ten classes.
    """
    return resnet(1, classes, seed)


def resnet32(shape: Tuple[int, int, int], classes: int, seed: Any) -> Callable[[Any], Any]:
    """32 layers with weights on the longest way: :func:`resnet` with five blocks a stage.

    467,194 parameters for 32 x 32 x 3 and ten classes.
    """
    return resnet(5, classes, seed)


def resnet(blocks: int, classes: int, seed: Any) -> Callable[[Any], Any]:
    """A convolution, three stages of ``blocks`` basic blocks, the mean over all pixels, dense to the classes.

    A basic block is ReLU(f(x) + s(x)), where f is two 3x3 convolutions with a ReLU between and s the shortcut::

        f(x) = BN(conv3x3(ReLU(BN(conv3x3(x)))))
        s(x) = BN(conv1x1(x)) in the first block of every stage, the first stage included; x in the others

    The stages have 16, 32 and 64 filters; the second and the third begin with stride 2. Convolutions are padded and
    have no bias, which the batch normalisation (BN, as Keras sets it) after each of them would take away again. Any
    shape of image will do.

    The paper (Section C.1) gives the numbers of parameters only; this is the structure that has them.

    Returns:
      the function from images [n, h, w, c] to logits [n, classes] that makes the layers.
    """
    from rbd_ipu._compat import keras

    layers = keras.layers

    def convolution(x: Any, name: str, filters: int, side: int, stride: int) -> Any:
        x = layers.Conv2D(
            filters, side, stride, "same", use_bias=False, kernel_initializer=he(seed, name), name=name
        )(x)  # fmt: skip
        return layers.BatchNormalization(name=f"{name}_bn")(x)

    def block(x: Any, name: str, filters: int, stride: int, project: bool) -> Any:
        inside = convolution(x, f"{name}_conv1", filters, 3, stride)
        inside = layers.ReLU(name=f"{name}_relu1")(inside)
        inside = convolution(inside, f"{name}_conv2", filters, 3, 1)
        around = convolution(x, f"{name}_shortcut", filters, 1, stride) if project else x
        return layers.ReLU(name=f"{name}_relu2")(layers.Add(name=f"{name}_add")([inside, around]))

    def network(images: Any) -> Any:
        x = layers.ReLU(name="stem_relu")(convolution(images, "stem", RESNET_FILTERS[0], 3, 1))
        for stage, filters in enumerate(RESNET_FILTERS, start=1):
            for index in range(1, blocks + 1):
                first = index == 1
                stride = 2 if first and stage > 1 else 1
                x = block(x, f"stage{stage}_block{index}", filters, stride, project=first)
        x = layers.GlobalAveragePooling2D(name="mean")(x)
        return layers.Dense(classes, kernel_initializer=glorot(seed, "logits"), name="logits")(x)

    return network


FC200_HIDDEN = (200, 200)


def fc200(shape: Tuple[int, int, int], classes: int, seed: Any) -> List[Any]:
    """Flatten, two dense layers of 200 with ReLU, dense to the classes: the FC network of Li et al. 2018.

    199,210 parameters for 28 x 28 x 1 and ten classes, 656,810 for 32 x 32 x 3; any shape will do. Weights follow the
    rule of :func:`he`, as in the code of Li et al.
    """
    from rbd_ipu._compat import keras

    layers = keras.layers
    return [layers.Flatten(name="flatten"), *_dense(FC200_HIDDEN, classes, seed)]


def _dense(widths: Sequence[int], classes: int, seed: Any) -> List[Any]:
    """Dense layers with ReLU and the logits, with the weights of :func:`he`."""
    from rbd_ipu._compat import keras

    layers = keras.layers
    names = [f"hidden{index}" for index in range(1, len(widths) + 1)]
    return [
        *(layers.Dense(n, "relu", kernel_initializer=he(seed, name), name=name) for n, name in zip(widths, names)),
        layers.Dense(classes, kernel_initializer=he(seed, "logits"), name="logits"),
    ]


LENET_FILTERS, LENET_HIDDEN = (6, 16), (120, 84)
LENET_LEAST, LENET_UNPADDED = 4, 16  # pixels


def lenet(shape: Tuple[int, int, int], classes: int, seed: Any) -> List[Any]:
    """Two 5x5 convolutions (6, 16, no padding) with a pool after each, dense 120, 84 and the classes.

    ReLU after each but the last. It is the LeNet of Li et al. 2018, with weights by the rule of :func:`he` as in
    their code: 44,426 parameters for 28 x 28 x 1 and ten classes, 62,006 for 32 x 32 x 3. The convolutions of images
    of less than 16 pixels are padded: the embedded digits, 8 x 8, have 21,386 parameters.

    Raises:
      ValueError: a side of the image is shorter than four pixels.
    """
    from rbd_ipu._compat import keras

    side = min(shape[:2])
    if side < LENET_LEAST:
        raise ValueError(
            f"the network 'lenet' needs images of at least {LENET_LEAST} x {LENET_LEAST} pixels, got {shape}"
        )
    layers, padding = keras.layers, "valid" if side >= LENET_UNPADDED else "same"
    stack: List[Any] = []
    for index, filters in enumerate(LENET_FILTERS, start=1):
        name = f"conv{index}"
        stack += [
            layers.Conv2D(filters, 5, 1, padding, activation="relu", kernel_initializer=he(seed, name), name=name),
            layers.MaxPooling2D(2, name=f"pool{index}"),
        ]
    return [*stack, layers.Flatten(name="flatten"), *_dense(LENET_HIDDEN, classes, seed)]


def gpt(shape: Tuple[int], classes: int, seed: Any, **sizes: int) -> Callable[[Any], Any]:
    """A pre-norm decoder in the shape of GPT-2, from tokens [n, context] to logits [n, context, classes].

    See :mod:`rbd_ipu.gpt`. 349,536 parameters for 65 characters, a context of 48, three layers, a width of 96 and
    four heads; 9,892,800 for eight layers of 320 (five heads).
    """
    # Its layers are classes, which import TensorFlow.
    return importlib.import_module("rbd_ipu.gpt").network(*shape, classes, seed, **sizes)


# Rows: (shape, classes, seed) -> the layers, where they are a chain; else the function from inputs to logits.
NETWORKS = Registry("network")
NETWORKS.register("fc")(fc)
NETWORKS.register("cnn")(cnn)
NETWORKS.register("resnet8")(resnet8)
NETWORKS.register("resnet32")(resnet32)
NETWORKS.register("fc200")(fc200)
NETWORKS.register("lenet")(lenet)
NETWORKS.register("gpt")(gpt)

#: What the networks that are not for images are for, and the sizes that each takes, with their defaults.
OF_TEXT = ("gpt",)
SIZES = {"gpt": {"layers": 3, "width": 96, "heads": 4}}


def takes(name: str) -> str:
    """What a network is for: "images" or "text".

    Example:
      >>> takes("fc"), takes("gpt")
      ('images', 'text')
    """
    NETWORKS.get(name)
    return "text" if name in OF_TEXT else "images"


def build(name: str, shape: Tuple[int, ...], classes: int = 10, seed: Any = 0, **sizes: int) -> Any:
    """Builds a network with fresh weights.

    Args:
      name: "fc", "cnn", "resnet8", "resnet32", "fc200" or "lenet", see :func:`rbd_ipu.models.fc`,
        :func:`rbd_ipu.models.cnn`, :func:`rbd_ipu.models.resnet`, :func:`rbd_ipu.models.fc200` and
        :func:`rbd_ipu.models.lenet`; or "gpt", see :mod:`rbd_ipu.gpt`.
      shape: (height, width, channels) of an image; (context,), the number of tokens, for a network of text.
      classes: how many logits there are: of a network of text, how many tokens.
      seed: an int or int32 [2]; the same seed gives the same weights on the same software.
      **sizes: of "gpt": ``layers``, ``width`` and ``heads``.

    Returns:
      A built ``keras.Model``: float32 [n, height, width, channels] -> logits [n, classes], or int32 [n, context] ->
      logits [n, context, classes], which is to say no softmax at the end.

    Raises:
      ValueError: the network is unknown, the shape is not three whole numbers from 1 (of a network of text: one),
        there are fewer than two classes, or the image is too small for the network, or its heads do not divide its
        width.
      TypeError: the seed is no seed, or the network has no such size.

    Example:
      >>> build("fc", shape=(28, 28, 1)).count_params()
      101770
      >>> build("gpt", shape=(48,), classes=65).count_params()
      349536
    """
    network = NETWORKS.get(name)
    text = takes(name) == "text"
    if not isinstance(shape, (tuple, list)) or len(shape) != (1 if text else 3) or not all(map(_from_1, shape)):
        wanted = "one whole number from 1 (context,)" if text else "three whole numbers from 1 (h, w, c)"
        raise ValueError(f"shape must be {wanted}, got {shape!r}")
    if not _from_1(classes) or classes < 2:
        raise ValueError(f"classes must be a whole number from 2, got {classes!r}")
    for size in sizes:
        if size not in SIZES.get(name, {}):
            accepted = ", ".join(SIZES.get(name, {})) or "none"
            raise TypeError(f"network {name!r} has no size {size!r}; accepted: {accepted}")
    fold_in_numpy(seed)
    body = network(tuple(map(int, shape)), int(classes), seed, **sizes)

    from rbd_ipu._compat import keras

    inputs = keras.Input(shape, name="tokens", dtype="int32") if text else keras.Input(shape, name="image")
    if callable(body):
        return keras.Model(inputs, body(inputs), name=name)
    return keras.Sequential([inputs, *body], name=name)


def _from_1(value: Any) -> bool:
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    return bool(whole and value >= 1)
