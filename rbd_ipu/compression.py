"""From gradients to a small message and back: select, remember, few bits a coordinate.

For worker k with memory m_k, an orthonormal basis P_t from the seed, and S the largest of |P_t^T m_k| in each block::

    m_k <- beta m_k + g_k
    c   =  P_t^T m_k,  q = wire(c_S)                       the message: |S| indices, |S| values
    m_k <- m_k - P_t q                                     remembers what was not sent
    u   =  P_t (sum_k q_k) / K                             the same on all workers

Without memory, m_k is g_k. Without a selection, S is all coordinates and no indices are sent. All workers, the sender
too, go on with what the receivers decode. With a second moment, each worker divides its gradients first, as Adam
does (:meth:`Sketch.rescaled`). An optimizer behind the wire cannot: it sees a few coordinates of all entries.

A *sketch* is the P_t of a model: of blocks (:class:`BlockSketch`), or any other bases (:class:`SubspaceSketch`).
"""

import functools
import math
import numbers
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from rbd_ipu import checks
from rbd_ipu._compat import as_it_is, inside_xla, tf
from rbd_ipu.compartments import Compartments
from rbd_ipu.directions import resolve
from rbd_ipu.directions.blocks import BLOCK, backward, forward
from rbd_ipu.directions.source import module_of
from rbd_ipu.parallel import wire as wires
from rbd_ipu.parallel.wire import Chosen, Shape
from rbd_ipu.placement import seed_words
from rbd_ipu.seeds import fold_in
from rbd_ipu.subspace import BasisSpec, Subspace, subspace

SELECTS = ("all", "largest")
UPDATES = ("mean", "sign")  # what an inner optimizer is given
STATES = ("full", "coordinates")  # what its state is of
ON_REDRAW = ("keep", "reset")  # what becomes of a state of coordinates
EPSILON = 1e-8  # beside the root of a second moment, as in Adam (Kingma and Ba 2015)
#: Sketches whose P_t has orthonormal columns: m - P_t q forgets just what was sent.
ORTHONORMAL = ("blocks", "groups", "hadamard")


class Layout:
    """How the coordinates of vectors are cut into blocks, and how many of each are sent.

    A vector of n entries has n // 4096 whole blocks, and one of what is left. A block of n_b coordinates sends
    max(1, round(fraction n_b)) of them; all, where fraction is 1. Where that would be more than was asked for, with a
    fraction below 1/4096 (with ``shared``: below 1/n_b), each block has one candidate, and of the blocks of one
    length B those with the largest candidates send: max(1, round(fraction B n_b)) of them. Blocks of one shape are
    coded together: those of vectors of one length one after the other, lengths in the order in which they first
    appear.

    Args:
      sizes: n of each vector.
      fraction: of the coordinates that are sent, in (0, 1].
      shared: whether the number that is sent comes as near to fraction D as it can.

    Attributes:
      shapes: of the blocks, see :class:`rbd_ipu.parallel.wire.Shape`.
      sent_shapes: of what is sent: the same, or one block for all of a length of which some send.
      coordinates: how many are sent in all.
      groups: indices of the vectors of each length.

    Example:
      >>> Layout([5000, 10, 5000], 1 / 128).shapes
      [Shape(blocks=2, n=4096, k=32), Shape(blocks=2, n=904, k=7), Shape(blocks=1, n=10, k=1)]
    """

    def __init__(self, sizes: Sequence[int], fraction: float, shared: bool = False):
        self.sizes, self.fraction, self.shared = tuple(sizes), fraction, shared
        self.groups: Dict[int, List[int]] = {}
        for index, size in enumerate(sizes):
            self.groups.setdefault(size, []).append(index)
        counts: Dict[int, int] = {}
        # Of each vector: the first row of its whole blocks, and the row of what is left, among blocks of that length.
        self.rows: List[Tuple[int, int]] = [(0, 0)] * len(self.sizes)
        for size, members in self.groups.items():
            whole, rest = divmod(size, BLOCK)
            for index in members:
                first, last = counts.get(BLOCK, 0), counts.get(rest, 0)
                self.rows[index] = (first, last)
                if whole:
                    counts[BLOCK] = first + whole
                if rest:
                    counts[rest] = last + 1
        self.shapes = [Shape(count, n, self.sent(n)) for n, count in counts.items()]
        self.lengths = list(counts)
        self.sent_shapes = [
            self._of_some(shape) if fraction * (shape.n if shared else BLOCK) < 1.0 else shape
            for shape in self.shapes
        ]
        self.coordinates = sum(shape.blocks * shape.k for shape in self.sent_shapes)

    def _of_some(self, shape: Shape) -> Shape:
        """All blocks of a length as one, of which some coordinates are sent."""
        k = max(1, int(self.fraction * shape.blocks * shape.n + 0.5))
        return Shape(1, shape.blocks * shape.n, k) if k < shape.blocks else shape

    def sent(self, n: int) -> int:
        """How many coordinates a block of n sends."""
        return n if self.fraction == 1.0 else min(n, max(1, int(self.fraction * n + 0.5)))

    def at(self, n: int) -> int:
        """The index of the shape of blocks of n coordinates."""
        return self.lengths.index(n)


class Sketch:
    """P_t of a model: coordinates of vectors float32 [n], and back.

    What a memory needs is here, by operations of TensorFlow; a sketch with machine code does it in fewer passes.

    Attributes:
      size: D, entries of all vectors.
      dim: d, coordinates that are sent.
      shapes: of their blocks.
    """

    size: int
    dim: int
    shapes: List[Shape]

    def choose(self, vectors: Sequence[Any], index: Any) -> List[Chosen]:
        """The coordinates that are sent of vectors float32 [n]; ``index`` counts the bases drawn before."""
        raise NotImplementedError

    def expand(self, sent: Sequence[Sequence[Chosen]], index: Any) -> List[Any]:
        """P_t of the sum of the workers' coordinates, added in their order: vectors float32 [n]."""
        raise NotImplementedError

    def rescaled(
        self, use: "Compression", squares: Sequence[Any], gradients: Sequence[Any], finite: Any, step: Any
    ) -> List[Any]:
        """v <- b v + (1 - b) g^2, if all of g are finite; g / (sqrt(v / (1 - b^t)) + 1e-8), t = step + 1.

        Where v is 0 still, v <- (1 - b^t) g^2, as if there had been this gradient from the beginning: the first step
        of an entry is one rate long, also of a rare token or of a layer that was frozen.
        """
        decay = use.second_moment or 0.0
        weight = unbiased(decay, step)

        def add() -> Any:
            for v, g in zip(squares, gradients):
                before = tf.convert_to_tensor(v)
                mean = decay * before + (1.0 - decay) * g * g
                v.assign(tf.where(tf.equal(before, 0.0), g * g * (1.0 / weight), mean))
            return tf.constant(0)

        tf.cond(finite, add, lambda: tf.constant(0))
        return [g / (tf.sqrt(tf.convert_to_tensor(v) * weight) + EPSILON) for g, v in zip(gradients, squares)]

    def moved(self, vectors: Sequence[Any], coordinates: Any, index: Any) -> List[Any]:
        """theta + P_t c of vectors float32 [n] and of all coordinates in one vector, [d]."""
        update = self.expand([wires.cut(coordinates, self.shapes)], index)
        return [v + u for v, u in zip(vectors, update)]

    def remember(
        self, use: "Compression", memory: Sequence[Any], squares: Sequence[Any], gradients: Sequence[Any],
        finite: Any, index: Any, step: Any,
    ) -> List[Chosen]:  # fmt: skip
        """m <- beta m + g, if all of g are finite; what is sent of m. With squares, of :meth:`rescaled` gradients."""
        if squares:
            gradients = self.rescaled(use, squares, gradients, finite, step)

        def add() -> Any:
            for m, g in zip(memory, gradients):
                if use.memory == 1.0:
                    m.assign_add(g)
                else:
                    m.assign(use.memory * tf.convert_to_tensor(m) + g)
            return tf.constant(0)

        tf.cond(finite, add, lambda: tf.constant(0))
        return self.choose([tf.convert_to_tensor(m) for m in memory], index)

    def receive(self, sent: "Sent", memory: Sequence[Any], index: Any, sign: bool) -> List[Any]:
        """See :func:`receive`."""
        update = self.expand(sent.coordinates, index)
        if memory:
            own = update if len(sent.coordinates) == 1 else self.expand([sent.own], index)

            def subtract() -> Any:
                for m, u in zip(memory, own):
                    m.assign_sub(u)
                return tf.constant(0)

            tf.cond(sent.finite, subtract, lambda: tf.constant(0))
        return [tf.sign(u) for u in update] if sign else update


class BlockSketch(Sketch):
    """P_t of the distribution ``blocks``, one basis for each vector, and the k largest coordinates of each block.

    Args:
      layout: of the vectors, and how many coordinates of them are chosen.
      seed: of the bases.
      signed: whether the bases have random signs.
      source: "auto", "native" or "counter".
    """

    def __init__(self, layout: Layout, seed: int, signed: bool, source: str = "auto"):
        self.layout = layout
        self.size, self.dim, self.shapes = sum(layout.sizes), layout.coordinates, layout.sent_shapes
        self.seed, self._signed = seed, signed
        self._kernels = self._seeds = None
        if resolve(source) == "native":
            native = module_of("native")
            self._kernels = native.block_kernels(layout, signed)
            self._seeds = functools.partial(native.later, native.compartment_seeds(range(len(layout.sizes))).hashed)

    @as_it_is
    def choose(self, vectors: Sequence[Any], index: Any) -> List[Chosen]:
        """The largest coordinates of vectors float32 [n]; ``index`` counts the bases drawn before."""
        keys = self._keys(index)
        if self._kernels and not inside_xla():
            return self._of_some(self._kernels.choose(vectors, keys))
        blocks: List[List[Any]] = [[] for _ in self.shapes]
        for size, members in self.layout.groups.items():
            c = forward(tf.stack([vectors[v] for v in members]), self._of(keys, members))
            whole, rest = divmod(size, BLOCK)
            if whole:
                blocks[self.layout.at(BLOCK)].append(tf.reshape(c[:, : whole * BLOCK], [-1, BLOCK]))
            if rest:
                blocks[self.layout.at(rest)].append(c[:, whole * BLOCK :])
        chosen = [largest(_joined(of_shape), shape.k) for of_shape, shape in zip(blocks, self.layout.shapes)]
        return self._of_some(chosen)

    def _of_some(self, chosen: Sequence[Chosen]) -> List[Chosen]:
        """What is sent of the coordinates chosen in all blocks: where some of them send, those of the largest."""
        found = []
        for (index, values), shape, sent in zip(chosen, self.layout.shapes, self.shapes):
            if sent != shape:
                block, values = largest(tf.transpose(values), sent.k)  # of one candidate a block
                place = block * shape.n
                index = place if index is None else place + tf.gather(index[:, 0], block)  # None: blocks of one
            found.append((index, values))
        return found

    def _in_blocks(self, sent: Sequence[Chosen]) -> List[Chosen]:
        """The coordinates of all blocks, from those that were sent: the others are 0."""
        found = []
        for (index, values), shape, own in zip(sent, self.layout.shapes, self.shapes):
            if own != shape:
                block = index[0] // shape.n
                within, values = (
                    tf.math.unsorted_segment_sum(x, block, shape.blocks)[:, tf.newaxis]
                    for x in (index[0] - block * shape.n, values[0])
                )
                index = within if shape.n > 1 else None
            found.append((index, values))
        return found

    @as_it_is
    def expand(self, sent: Sequence[Sequence[Chosen]], index: Any) -> List[Any]:
        """P_t of the sum of the workers' coordinates, added in their order: vectors float32 [n]."""
        keys, sent = self._keys(index), [self._in_blocks(own) for own in sent]
        if self._kernels and not inside_xla():
            return self._kernels.expand(sent, keys)
        blocks = summed(sent, self.layout.shapes)
        vectors: List[Any] = [None] * len(self.layout.sizes)
        for size, members in self.layout.groups.items():
            whole, rest = divmod(size, BLOCK)
            first, last = self.layout.rows[members[0]]
            parts, count = [], len(members)
            if whole:
                of_group = blocks[self.layout.at(BLOCK)][first : first + count * whole]
                parts.append(tf.reshape(of_group, [count, whole * BLOCK]))
            if rest:
                parts.append(blocks[self.layout.at(rest)][last : last + count])
            x = backward(_joined(parts, axis=1), self._of(keys, members))
            for v, vector in zip(members, tf.unstack(x)):
                vectors[v] = vector
        return vectors

    @as_it_is
    def remember(
        self, use: "Compression", memory: Sequence[Any], squares: Sequence[Any], gradients: Sequence[Any],
        finite: Any, index: Any, step: Any,
    ) -> List[Chosen]:  # fmt: skip
        if not self._kernels or inside_xla():
            return super().remember(use, memory, squares, gradients, finite, index, step)
        decay = use.second_moment or 0.0
        scaling = (squares, decay, unbiased(decay, step)) if squares else ()
        chosen = self._kernels.remember(memory, gradients, use.memory, finite, self._keys(index), *scaling)
        return self._of_some(chosen)

    @as_it_is
    def receive(self, sent: "Sent", memory: Sequence[Any], index: Any, sign: bool) -> List[Any]:
        if not self._kernels or inside_xla():
            return super().receive(sent, memory, index, sign)
        coordinates, own = [self._in_blocks(one) for one in sent.coordinates], self._in_blocks(sent.own)
        return self._kernels.receive(coordinates, own, sent.finite, memory, self._keys(index), sign)

    def _keys(self, index: Any) -> Any:
        """The seeds of the vectors' bases, int32 [V, 2]: those of compartments, one for each vector.

        The kernels hash them themselves.
        """
        if not self._signed:
            return tf.zeros([len(self.layout.sizes), 2], tf.int32)
        index = tf.cast(index, tf.int32)
        if self._seeds and not inside_xla():
            return self._seeds([seed_words(self.seed), index, tf.constant(0)])
        seed = fold_in(seed_words(self.seed), "step", index, "worker", tf.constant(0))
        return fold_in(seed, "compartment", tf.range(len(self.layout.sizes)))

    def _of(self, keys: Any, members: Sequence[int]) -> Any:
        return tf.gather(keys, list(members)) if self._signed else None


def largest(c: Any, k: int) -> Chosen:
    """The k largest of |c| in each row, of equal ones the first, by rising index: [B, n] -> int32, float32 [B, k]."""
    if k == c.shape[1]:
        return None, c
    index = tf.math.top_k(tf.abs(c), k).indices
    # Rising, by a second selection: an IPU sorts no integers.
    index = -tf.cast(tf.math.top_k(-tf.cast(index, tf.float32), k).values, tf.int32)
    return index, tf.gather(c, index, axis=1, batch_dims=1)


def placed(chosen: Sequence[Chosen], shape: Shape) -> Any:
    """The workers' coordinates in their places, added up in order: float32 [B, n]."""
    total = None
    for index, values in chosen:
        if index is not None:
            flat = tf.reshape(index + shape.n * tf.range(shape.blocks)[:, tf.newaxis], [-1])
            dense = tf.math.unsorted_segment_sum(tf.reshape(values, [-1]), flat, shape.blocks * shape.n)
            values = tf.reshape(dense, [shape.blocks, shape.n])
        total = values if total is None else total + values
    return total


def summed(sent: Sequence[Sequence[Chosen]], shapes: Sequence[Shape]) -> List[Any]:
    """The sum of the workers' coordinates, in their order: of each shape float32 [B, n]."""
    return [placed([own[s] for own in sent], shape) for s, shape in enumerate(shapes)]


class SubspaceSketch(Sketch):
    """P_t of any other bases: all d coordinates are sent, in blocks of 4096.

    Args:
      sizes: n of each vector.
      space: the bases.
      seed: of the bases.
    """

    def __init__(self, sizes: Sequence[int], space: Subspace, seed: int):
        self.space, self.seed, self.size, self.dim = space, seed, space.size, space.dim
        self._sizes = list(sizes)
        self.shapes = wires.all_of(self.dim)

    @as_it_is
    def choose(self, vectors: Sequence[Any], index: Any) -> List[Chosen]:
        """All coordinates of vectors float32 [n]."""
        return wires.cut(self.space.project_pieces(vectors, self.seed, index), self.shapes)

    @as_it_is
    def expand(self, sent: Sequence[Sequence[Chosen]], index: Any) -> List[Any]:
        """P_t of the sum of the workers' coordinates: vectors float32 [n]."""
        c = wires.joined(summed(sent, self.shapes))
        return self.space.expand_pieces(c, self._sizes, self.seed, index)

    @as_it_is
    def moved(self, vectors: Sequence[Any], coordinates: Any, index: Any) -> List[Any]:
        return self.space.expand_pieces(coordinates, self._sizes, self.seed, index, onto=vectors)


def _joined(parts: Sequence[Any], axis: int = 0) -> Any:
    return parts[0] if len(parts) == 1 else tf.concat(list(parts), axis=axis)


class Compression(NamedTuple):
    """How gradients become messages.

    Attributes:
      basis: which bases; ``dim`` is left to the model.
      fixed: whether the first basis is kept; blocks then have no signs.
      dim, fraction: how many coordinates a step sends, or which part of D; both None for all.
      select: "all", or "largest" of the coordinates of blocks.
      memory: beta, or None.
      wire: a row of :data:`rbd_ipu.parallel.wire.VALUES`.
      second_moment: the decay of the running mean of g^2 by whose root gradients are divided, or None.
    """

    basis: BasisSpec
    fixed: bool = False
    dim: Optional[int] = None
    fraction: Optional[float] = None
    select: str = "all"
    memory: Optional[float] = None
    wire: str = "float32"
    second_moment: Optional[float] = None

    @property
    def kept(self) -> Tuple[str, ...]:
        """The names of the vectors of D numbers that each worker keeps."""
        return tuple(name for name in ("memory", "second_moment") if getattr(self, name) is not None)

    @property
    def lossless(self) -> bool:
        """Whether all arrives as it was sent, P P^T being the identity: then nothing has to be computed."""
        whole = self.select == "all" and self.basis.distribution.partition(":")[0] == "blocks"
        return whole and self.wire == "float32" and self.memory is None

    def basis_index(self, step: Any) -> Any:
        """How many bases were drawn before the one of this step."""
        return tf.zeros_like(step) if self.fixed else self.basis.index(step)

    def sketch(self, variables: Sequence[Any]) -> Any:
        """The sketch of these variables (or shapes), built for them.

        Raises:
          ValueError: dim or fraction does not fit them.
        """
        cut = Compartments.of(variables, "variable", len(variables))
        sizes = [piece.size for piece in cut]
        D = sum(sizes)
        if self.dim is not None and self.dim > D:
            raise ValueError(f"dim={self.dim} is more than the {D} parameters of the subspace")
        basis = self.basis
        if self.select == "largest":
            if self.dim is None:
                layout = Layout(sizes, float(self.fraction or 1.0))
            else:
                layout = Layout(sizes, self.dim / D, shared=True)
                if self.dim < len(layout.shapes):
                    raise ValueError(
                        f"dim={self.dim}: this model has blocks of {len(layout.shapes)} lengths, and those of each "
                        "send at least one coordinate"
                    )
            return BlockSketch(layout, basis.seed, not self.fixed, basis.source)
        if basis.distribution == "blocks":
            if self.dim not in (None, D) or self.fraction not in (None, 1.0):
                raise ValueError(
                    f"distribution 'blocks' has all {D} directions, so with select='all' dim must be {D} or None; "
                    f"got dim={self.dim}, fraction={self.fraction}. To send fewer: select='largest', or distribution "
                    "'hadamard' or 'groups'"
                )
            return BlockSketch(Layout(sizes, 1.0), basis.seed, not self.fixed, basis.source)
        dim = self.dim
        if dim is None and self.fraction is not None:
            dim = max(1, int(self.fraction * D + 0.5))
        whole = Compartments.of(variables, basis.compartments, dim)
        space = subspace(whole, basis.distribution, basis.normalize, basis.source, basis.orthogonalize)
        return SubspaceSketch(sizes, space, basis.seed)


def compression(
    redraw_every: int, dim: Any, fraction: Any, select: str, memory: Any, wire: str, second_moment: Any = None,
    **basis: Any,
) -> Compression:  # fmt: skip
    """A checked :class:`Compression`; ``redraw_every=0`` keeps the first basis.

    Raises:
      TypeError, ValueError: an argument is wrong, or does not go with another; quotes it and what is accepted.

    Example:
      >>> compression(0, None, 1 / 128, "largest", 1.0, "sign", distribution="blocks").fixed
      True
    """
    whole = isinstance(redraw_every, numbers.Integral) and not isinstance(redraw_every, bool)
    fixed = whole and redraw_every == 0
    if whole and redraw_every < 0:
        raise ValueError(f"redraw_every must be an integer >= 0, where 0 keeps the first basis; got {redraw_every}")
    made = Compression(
        BasisSpec(redraw_every=1 if fixed else redraw_every, **basis),
        fixed,
        None if dim is None else checks.positive_int("dim", dim),
        None if fraction is None else checks.finite_float("fraction", fraction, 0.0, 1.0),
        select,
        None if memory is None else checks.finite_float("memory", memory, 0.0, 1.0),
        wire,
        None if second_moment is None else checks.finite_float("second_moment", second_moment, 0.0, 1.0),
    )
    check(made)
    return made


def check(use: Compression) -> None:
    """Refuses what does not go together, before there is a model.

    Raises:
      TypeError, ValueError: quotes what came and what is accepted.
    """
    checks.one_of("select", use.select, SELECTS)
    checks.one_of("wire", use.wire, tuple(wires.VALUES))
    distribution = use.basis.distribution.partition(":")[0]
    if use.dim is not None and use.fraction is not None:
        raise ValueError(f"give dim or fraction, not both: got dim={use.dim}, fraction={use.fraction}")
    if use.fraction is not None and not 0.0 < use.fraction <= 1.0:
        raise ValueError(f"fraction must be in (0, 1], the part of D that is sent; got {use.fraction}")
    if use.select == "largest" and distribution != "blocks":
        raise ValueError(
            f"select='largest' needs an orthonormal basis of all directions, distribution='blocks'; got "
            f"{use.basis.distribution!r}"
        )
    if use.select == "largest" and use.dim is None and use.fraction is None:
        raise TypeError("select='largest' needs dim or fraction: how many coordinates a step sends")
    counted = distribution == "blocks" or use.basis.compartments.startswith("factor:")
    if use.select == "all" and not counted and (use.dim, use.fraction) == (None, None):
        raise TypeError(f"distribution {use.basis.distribution!r} needs dim or fraction: how many directions")
    if use.memory is not None and distribution not in ORTHONORMAL and not use.basis.orthogonalize:
        raise ValueError(
            f"memory={use.memory} needs orthonormal directions, so that m - P q forgets what was sent; distribution "
            f"{use.basis.distribution!r} has none. Accepted: {', '.join(map(repr, ORTHONORMAL))}, or "
            "orthogonalize=True"
        )
    if use.second_moment == 1.0:
        raise ValueError("second_moment must be below 1, the decay of a running mean; got 1.0")
    if use.memory is not None and use.basis.normalize != "unit":
        raise ValueError(f"memory={use.memory} needs normalize='unit', got {use.basis.normalize!r}")
    if distribution == "blocks" and use.basis.normalize == "none":
        raise ValueError("distribution 'blocks' has directions of norm 1: normalize must be 'unit', got 'none'")
    if distribution == "blocks" and use.basis.compartments not in ("global", "variable"):
        raise ValueError(
            f"distribution 'blocks' cuts every variable into blocks by itself; compartments must be 'variable' or "
            f"'global' (no difference), got {use.basis.compartments!r}"
        )


Gather = Callable[[Any], Sequence[Any]]


class Sent(NamedTuple):
    """What comes of a step.

    Attributes:
      coordinates: decoded, of each worker; those of all workers, in their order.
      own: those of this worker.
      finite: whether this worker's gradients were: bool scalar.
    """

    coordinates: List[List[Chosen]]
    own: List[Chosen]
    finite: Any


@as_it_is
def send(
    use: Compression,
    sketch: Any,
    gradients: Sequence[Any],
    memory: Sequence[Any],
    index: Any,
    gather: Optional[Gather],
    squares: Sequence[Any] = (),
    step: Any = 0,
) -> Sent:
    """The first two lines, and the exchange: from gradients float32 [n] to the coordinates that all workers decode.

    A gradient that is not finite does not enter the memory; it is sent as NaN, so that all learn of it.

    Args:
      memory: m, variables float32 [n], which take up the gradients; empty without memory.
      gather: a message int32 [words] -> those of all workers, in order; None for one worker alone.
      squares: v, variables float32 [n], the running means of g^2; empty without a second moment.
      step: of the optimizer, from 0: how many gradients are in v.
    """
    finite = all_finite(gradients)
    if memory:
        chosen = sketch.remember(use, memory, squares, gradients, finite, index, step)
    else:
        if squares:
            gradients = sketch.rescaled(use, squares, gradients, finite, step)
        chosen = sketch.choose(list(gradients), index)
    coded = wires.encode(use.wire, chosen)
    if memory or wires.VALUES.get(use.wire).scaled or use.select == "largest":  # NaN is not the largest of a block
        coded = [_not_finite_unless(finite, use.wire, one) for one in coded]
    own = wires.decode(use.wire, coded)
    if gather is None:
        return Sent([own], own, finite)
    messages = gather(wires.pack(use.wire, sketch.shapes, coded))
    return Sent([wires.decode(use.wire, wires.unpack(use.wire, sketch.shapes, m)) for m in messages], own, finite)


@as_it_is
def receive(sketch: Any, sent: Sent, memory: Sequence[Any], index: Any, sign: bool = False) -> List[Any]:
    """The last two lines: m <- m - P q, unless the gradients were not finite, and P of the sum, or its sign."""
    if sign:  # that of infinity is 1
        sent = sent._replace(coordinates=[nan_unless_finite(own) for own in sent.coordinates])
    return sketch.receive(sent, memory, index, sign)


def unbiased(decay: float, step: Any) -> Any:
    """1 / (1 - b^t), t = step + 1: what a running mean that began at 0 is multiplied by."""
    return 1.0 / (1.0 - tf.pow(tf.constant(decay), tf.cast(step, tf.float32) + 1.0))


def all_finite(tensors: Sequence[Any]) -> Any:
    """Whether all entries are finite, by their sums: bool scalar."""
    return functools.reduce(tf.logical_and, [tf.math.is_finite(tf.reduce_sum(tensor)) for tensor in tensors])


def nan_unless_finite(coordinates: Sequence[Chosen]) -> List[Chosen]:
    """The same coordinates, with NaN for those that are infinite: the sign of infinity is a number."""
    return [(index, tf.where(tf.math.is_finite(values), values, math.nan)) for index, values in coordinates]


def _not_finite_unless(finite: Any, wire: str, coded: Any) -> Any:
    index, codes, scale = coded
    if wires.VALUES.get(wire).scaled:
        return index, codes, tf.where(finite, scale, wires.NOT_FINITE)
    nan = wires.VALUES.get(wire).encode(tf.fill([1, 1], tf.constant(math.nan)))[0]
    return index, tf.where(finite, codes, nan), scale


__all__ = [
    "BlockSketch",
    "Compression",
    "Layout",
    "Sent",
    "Sketch",
    "SubspaceSketch",
    "check",
    "compression",
    "nan_unless_finite",
    "receive",
    "send",
]
