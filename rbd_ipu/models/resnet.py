"""The residual networks of the paper, ResNet-8 and ResNet-32, for small images."""

from typing import Any, Callable, Tuple

from rbd_ipu.models.initialisers import glorot, he

FILTERS = (16, 32, 64)  # of the three stages


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
    from rbd_ipu._stack import keras

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
        x = layers.ReLU(name="stem_relu")(convolution(images, "stem", FILTERS[0], 3, 1))
        for stage, filters in enumerate(FILTERS, start=1):
            for index in range(1, blocks + 1):
                first = index == 1
                stride = 2 if first and stage > 1 else 1
                x = block(x, f"stage{stage}_block{index}", filters, stride, project=first)
        x = layers.GlobalAveragePooling2D(name="mean")(x)
        return layers.Dense(classes, kernel_initializer=glorot(seed, "logits"), name="logits")(x)

    return network
