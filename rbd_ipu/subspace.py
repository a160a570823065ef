"""Subspace: the bases of all compartments, applied to flat parameter vectors in one go; what a basis is.

The seed contract, from the seed of a run to an entry of a direction:

    step seed         fold_in(run seed, "step", t, "worker", w)
    compartment seed  fold_in(step seed, "compartment", k)
    direction key     fold_in(compartment seed, i)
    entry             hash(j, direction key)

t counts the bases drawn so far (0 for ever where the basis is fixed), w workers, k compartments, i directions of
the compartment, j parameters of it. Hadamard directions are made as a whole: all workers share the signs and the
order of the rows of w = 0, and worker w has the d rows of the ranks from w d on (``directions/hadamard.py``).
"""

import dataclasses
import functools
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np

from rbd_ipu import checks
from rbd_ipu._compat import as_it_is, inside_xla, program, tf
from rbd_ipu.compartments import Compartments, parse_scheme
from rbd_ipu.directions import (
    DISTRIBUTIONS,
    Compiled,
    Source,
    check_distribution,
    check_orthogonal,
    make_source,
    resolve,
)
from rbd_ipu.directions.dense import BLOCK_FLOATS, MOST_PLACES, Keyed, Many
from rbd_ipu.directions.source import module_of, repeat
from rbd_ipu.directions.stream import schedule
from rbd_ipu.placement import on_ipu, seed_words
from rbd_ipu.seeds import fold_in

NORMALIZATIONS = ("unit", "expected", "none")


def check_normalize(normalize: Any) -> str:
    """Refuses unknown normalisations, quoting the accepted ones."""
    if normalize not in NORMALIZATIONS:
        accepted = ", ".join(repr(name) for name in NORMALIZATIONS)
        raise ValueError(f"unknown normalize {normalize!r}; accepted: {accepted}")
    return normalize


@dataclasses.dataclass(frozen=True)
class BasisSpec:
    """Which random bases: the one list of what configs, optimizers, methods and the command line pass on.

    Attributes:
      dim: d, the number of directions of all compartments together; None where "factor:f" fixes it.
      distribution: what directions are drawn from, see :class:`rbd_ipu.RandomBasis`.
      compartments: how the parameters are cut up, a scheme of :meth:`rbd_ipu.Compartments.of`.
      normalize: "unit", "expected" or "none".
      source: who draws them.
      orthogonalize: whether the directions of a basis are made orthonormal.
      redraw_every: how many steps a basis serves.
      seed: an int of at most 64 bits; the bases are a pure function of it.

    Raises:
      TypeError, ValueError: one of them is wrong; quotes it and what is accepted. Whether the scheme and d fit a
        model is seen when there is one.

    Example:
      >>> spec = BasisSpec(dim=250, distribution="hadamard")
      >>> spec.redraw_every, spec.compartments
      (1, 'global')
    """

    dim: Optional[int] = None
    distribution: str = "normal"
    compartments: str = "global"
    normalize: str = "unit"
    source: str = "auto"
    orthogonalize: bool = False
    redraw_every: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        keep = functools.partial(object.__setattr__, self)  # as plain ints: it goes into files
        if self.dim is not None:
            keep("dim", checks.positive_int("dim", self.dim))
        keep("redraw_every", checks.positive_int("redraw_every", self.redraw_every))
        keep("seed", checks.seed(self.seed))
        keep("orthogonalize", checks.flag("orthogonalize", self.orthogonalize))
        check_distribution(self.distribution)
        parse_scheme(self.compartments)
        check_normalize(self.normalize)
        resolve(self.source)
        if self.orthogonalize:
            check_orthogonal(self.distribution, self.normalize)

    @classmethod
    def names(cls) -> Tuple[str, ...]:
        """The names of all attributes, in their order."""
        return tuple(field.name for field in dataclasses.fields(cls))

    def as_dict(self) -> Dict[str, Any]:
        """All attributes by name."""
        return dataclasses.asdict(self)

    def index(self, step: Any) -> Any:
        """How many bases were drawn before the one of this step."""
        return step // self.redraw_every


class DirectionBlocks:
    """Goes through the directions of G equal compartments, at most a block of each in memory.

    Args:
      whole: D, the dimension of the full space.
      starts: where each of the G compartments begins in it.
      size, dim: n and d of one compartment.
      source: of their directions.
      jit: whether the drawing is to be compiled by XLA.
    """

    def __init__(self, whole: int, starts: Sequence[int], size: int, dim: int, source: Source, jit: bool):
        self.whole, self.size, self.dim = whole, size, dim
        self._starts = list(starts)
        self._draw = program(source.directions, jit=True) if jit else source.directions
        # A source whose stream is cut into blocks draws two of them for what is not one of them.
        self._rows = source.block_rows
        if self._rows:
            self._draw = source.block_at

    def __call__(self, function: Callable[[Any, int, Any], Any], width: int, seeds: Any, before: int) -> Any:
        """``function(phi [D], n, place) -> [width]`` of all directions: seeds int32 [G, 2] -> float32 [G, d, width].

        Block by block; within a block one compartment after the other. ``place`` counts the directions, from
        ``before`` on. Loops have constant lengths.
        """
        groups = len(self._starts)
        rows = self._rows or max(1, min(self.dim, BLOCK_FLOATS // (groups * self.size)))
        full, rest = divmod(self.dim, rows)

        def block(start: Any, count: int) -> Any:
            block = self._draw(seeds, start, self._rows or count)[:, :count]
            drawn = tf.reshape(block, [groups * count, self.size])

            def one(q: Any) -> Tuple[Any]:
                phi = self._embed(tf.gather(drawn, q), q // count)
                return (tf.reshape(function(phi, self.size, before + start * groups + q), [width]),)

            return tf.reshape(repeat(groups * count, one, [[width]])[0], [groups, count, width])

        blocks = []
        if full:
            stacked = repeat(full, lambda b: (block(b * rows, rows),), [[groups, rows, width]])[0]
            blocks.append(tf.reshape(tf.transpose(stacked, [1, 0, 2, 3]), [groups, full * rows, width]))
        if rest:
            blocks.append(block(tf.constant(full * rows), rest))
        return tf.concat(blocks, axis=1)

    def _embed(self, piece: Any, member: Any) -> Any:
        """A direction of a compartment in the full space, zero outside: [n] -> [D]."""
        if self.size == self.whole:
            return piece
        padded = tf.pad(piece, [[0, self.whole - self.size]])
        return tf.roll(padded, tf.gather(tf.constant(self._starts), member), axis=0)


# More sizes of compartments than this are not worth a program each, and more compartments are not worth cutting
# the vector up and joining it again.
MOST_GROUPS = 4
MOST_PIECES = 32


class Subspace:
    """P = diag(P_1 ... P_K): an independent random basis for each compartment, drawn anew at each step.

    Every method takes the run's seed, the step and the worker whose basis is meant; all three are traced, so that
    no number of them compiles anything again.

    Args:
      compartments: the cut of the parameter vector; D = compartments.size, d = compartments.dim.
      distribution, normalize, source, orthogonalize: as for :class:`rbd_ipu.RandomBasis`.

    Raises:
      ValueError: an unknown distribution, normalisation or source, or one that does not fit a compartment.

    Example:
      >>> from rbd_ipu.compartments import Compartments
      >>> subspace = Subspace(Compartments.of([(30, 20), (20,)], "variable", 8))
      >>> subspace.dim, subspace.size, subspace.directions(seed=0, step=3).shape.as_list()
      (8, 620, [8, 620])
    """

    def __init__(
        self,
        compartments: Compartments,
        distribution: str = "normal",
        normalize: str = "unit",
        source: str = "auto",
        orthogonalize: bool = False,
    ):
        self.compartments = compartments
        self.size = compartments.size
        self.dim = compartments.dim
        self.distribution = check_distribution(distribution)
        self.normalize = check_normalize(normalize)
        self.source = resolve(source)
        self.orthogonalize = orthogonalize
        # Compartments of one size and dimension share a source, and with it every operation.
        self._groups: List[Tuple[List[int], Source]] = [
            (members, self._source_of(len(members), size, dim))
            for (size, dim), members in compartments.groups().items()
        ]
        # Seeds are hashed by Numba or under XLA, inside the compiled program or in one of their own: as single
        # operations, the rounds of Threefry would take longer than a network.
        self._order = [k for members, _ in self._groups for k in members]  # of the seeds
        many = self._many()
        jit = many is not None or all(source.jit for _, source in self._groups)
        if not jit:  # a large group may be cut into programs where a small one is left whole
            self._groups = [(members, Compiled(s) if s.jit else s) for members, s in self._groups]
        self._by_places = len(compartments) > MOST_PIECES and self.size <= MOST_PLACES
        self._one_draw = all(source.one_draw for _, source in self._groups)
        native = module_of("native") if self.source == "native" else None
        self._fused = many or (native.fused(compartments, self._groups) if native else None)
        self._on_host = native.compartment_seeds(self._order) if native else None
        self._seeds = self._hash_seeds if self._on_host else _compile(self._hash_seeds, not jit)
        one_call = self._fused or len(self._groups) == 1
        self._within_call = one_call and all(source.takes_later for _, source in self._groups)
        self._run = {
            method: _compile(functools.partial(self._apply, method), jit)
            for method in ("project", "expand", "sketch", "filter", "join")
        }
        self._blocks = [
            DirectionBlocks(
                self.size, [compartments[k].start for k in members], size, dim, source, self.source == "counter"
            )
            for (size, dim), (members, source) in zip(compartments.groups(), self._groups)
        ]

    def _source_of(self, groups: int, size: int, dim: int) -> Source:
        kind = (self.distribution, self.normalize, 0, self.orthogonalize)
        return make_source(self.source, groups, size, dim, *kind)

    def _many(self) -> Any:
        """What runs many compartments as one program, where each group of equal ones would compile its own."""
        plain = self.source == "counter" and self.distribution in DISTRIBUTIONS and not self.orthogonalize
        few = len(self._groups) <= MOST_GROUPS and (len(self.compartments) <= MOST_PIECES or len(self._groups) == 1)
        if not plain or few:
            return None
        return OneProgram(Many(self.compartments, self.distribution, self.normalize), self._order)

    @as_it_is
    def project(self, vector: Any, seed: Any, step: Any = 0, worker: Any = 0) -> Any:
        """c = P^T v: float32 [D] -> [d]."""
        return self._run["project"](vector, *self._key(seed, step, worker))

    @as_it_is
    def expand(self, coordinates: Any, seed: Any, step: Any = 0, worker: Any = 0) -> Any:
        """u = P c: float32 [d] -> [D]."""
        return self._run["expand"](coordinates, *self._key(seed, step, worker))

    @as_it_is
    def sketch(self, vector: Any, seed: Any, step: Any = 0, worker: Any = 0) -> Tuple[Any, Any]:
        """c = P^T v and P c, in one pass over each direction: [D] -> [d], [D]."""
        return self._run["sketch"](vector, *self._key(seed, step, worker))

    @as_it_is
    def filter(self, vector: Any, seed: Any, step: Any = 0, worker: Any = 0) -> Any:
        """P P^T v, for those who do not need the coordinates: [D] -> [D]."""
        return self._run["filter"](vector, *self._key(seed, step, worker))

    @as_it_is
    def project_pieces(self, pieces: Sequence[Any], seed: Any, step: Any = 0, worker: Any = 0) -> Any:
        """:meth:`project` of a vector in pieces, which are joined only where they must be: [n_1], ... -> [d]."""
        source = self._in_pieces()
        if source is None:
            return self.project(tf.concat(list(pieces), axis=0), seed, step, worker)
        return source.project_pieces(pieces, self._seeds_or_later(*self._key(seed, step, worker))[0])

    @as_it_is
    def expand_pieces(
        self, coordinates: Any, sizes: Sequence[int], seed: Any, step: Any = 0, worker: Any = 0,
        onto: Sequence[Any] = (),
    ) -> List[Any]:  # fmt: skip
        """:meth:`expand` to a vector in pieces, added to those of ``onto``, if any: [d] -> [n_1], ..."""
        source = self._in_pieces()
        if source is None:
            pieces = tf.split(self.expand(coordinates, seed, step, worker), list(sizes))
            return [v + u for v, u in zip(onto, pieces)] if onto else pieces
        return source.expand_pieces(coordinates, sizes, self._seeds_or_later(*self._key(seed, step, worker))[0], onto)

    @as_it_is
    def filter_pieces(self, pieces: Sequence[Any], seed: Any, step: Any = 0, worker: Any = 0) -> List[Any]:
        """:meth:`filter` of a vector in pieces: [n_1], ... -> the same."""
        source = self._in_pieces()
        if source is None:
            sizes = [int(piece.shape[0]) for piece in pieces]
            return tf.split(self.filter(tf.concat(list(pieces), axis=0), seed, step, worker), sizes)
        return source.filter_pieces(pieces, self._seeds_or_later(*self._key(seed, step, worker))[0])

    def _in_pieces(self) -> Any:
        """The source of the one compartment there is, if it takes vectors in pieces here."""
        source = self._groups[0][1]
        fits = len(self.compartments) == 1 and getattr(source, "in_pieces", False) and not inside_xla()
        return source if fits else None

    @as_it_is
    def join(self, messages: Any, seed: Any, step: Any = 0) -> Any:
        """sum_k P_k c_k, with P_k the basis of worker k: float32 [K, d] -> [D].

        K times :meth:`expand`, but for Hadamard directions, of which one transform serves all workers.
        """
        if self._one_draw:
            return self._run["join"](messages, *self._key(seed, step, 0))
        return tf.add_n([self.expand(messages[k], seed, step, k) for k in range(messages.shape[0])])

    @as_it_is
    def visit(
        self, function: Callable[[Any, int, Any], Any], width: int, seed: Any, step: Any = 0, worker: Any = 0
    ) -> Any:
        """What ``function(phi, n, place) -> [width]`` gives for each direction in turn: float32 [d, width].

        phi [D] is zero outside its compartment, which has n parameters. One block of directions is held at a time.
        They come one after the other, ``place`` counting them from 0: compartments of equal size and dimension
        together, block by block; where there is one compartment, in the order of its directions.
        """
        seeds = self._seeds(*self._key(seed, step, worker))
        rows: List[Any] = [None] * len(self.compartments)
        place = 0
        for (members, _), of_group, own in zip(self._groups, self._blocks, seeds):
            for k, values in zip(members, tf.unstack(of_group(function, width, own, place))):
                rows[k] = values
            place += len(members) * of_group.dim
        return tf.concat(rows, axis=0)

    @as_it_is
    def directions(self, seed: Any, step: Any = 0, worker: Any = 0) -> Any:
        """P^T, dense, zeros outside the compartments: [d, D]. For tests and analysis only."""
        rows: List[Any] = [None] * len(self.compartments)
        seeds = self._seeds(*self._key(seed, step, worker))
        for (members, source), own in zip(self._groups, seeds):
            drawn = source.directions(own, 0, self.compartments[members[0]].dim)
            for k, block in zip(members, tf.unstack(drawn)):
                piece = self.compartments[k]
                rows[k] = tf.pad(block, [[0, 0], [piece.start, self.size - piece.start - piece.size]])
        return tf.concat(rows, axis=0)

    def _key(self, seed: Any, step: Any, worker: Any) -> Tuple[Any, ...]:
        """Seed, step and worker as int32 tensors: a Python number would be a constant, and compile anew."""
        return seed_words(seed), tf.cast(step, tf.int32), tf.cast(worker, tf.int32)

    def _hash_seeds(self, seed: Any, step: Any, worker: Any) -> List[Any]:
        """Seeds of the compartments of each group: int32 [G, 2]; keys, where all workers share a draw."""
        drawn_by = tf.zeros_like(worker) if self._one_draw else worker
        if self._on_host and not inside_xla():
            seeds = self._on_host(seed, step, drawn_by)
        else:
            members = tf.constant(self._order, tf.int32)
            seeds = fold_in(seed, "step", step, "worker", drawn_by, "compartment", members)
        parts = tf.split(seeds, [len(members) for members, _ in self._groups])
        if not self._one_draw:
            return parts
        return [source.worker_keys(own, worker) for (_, source), own in zip(self._groups, parts)]

    def _seeds_or_later(self, seed: Any, step: Any, worker: Any) -> List[Any]:
        """The same, or one group of all, hashed by the kernels that need them."""
        if not self._within_call or inside_xla():
            return self._seeds(seed, step, worker)
        return [module_of("native").later(self._hash_arrays, [seed, step, worker])]

    def _hash_arrays(self, seed: np.ndarray, step: np.ndarray, worker: np.ndarray) -> np.ndarray:
        """:meth:`_hash_seeds` of arrays, for all groups."""
        assert self._on_host is not None  # who takes seeds later is native
        if self._one_draw:
            return self._groups[0][1].worker_keys(self._on_host.hashed(seed, step, 0), worker)
        return self._on_host.hashed(seed, step, worker)

    def _apply(self, method: str, operand: Any, *key: Any) -> Any:
        """A method of the sources, on all compartments: the result, or a list of two for ``sketch``."""
        seeds = self._seeds_or_later(*key)
        # Many's loops have lengths that a program for an IPU does not know.
        if self._fused and not (on_ipu() if self._fused.in_xla else inside_xla()):
            whole = "sketch" if method == "filter" else method
            seeds = seeds[0] if len(seeds) == 1 else tf.concat(seeds, axis=0)
            results = self._fused.run(whole, operand, seeds)[-1 if method == "filter" else 0 :]
        elif self._by_places and method != "join" and inside_xla() and not on_ipu():
            results = self._gathered(method, operand, seeds)
        else:
            takes_coordinates = method in ("expand", "join")
            sizes = [piece.dim if takes_coordinates else piece.size for piece in self.compartments]
            results = self._each(method, _cut(operand, sizes), seeds)
        return results if method == "sketch" else results[0]

    def _each(self, method: str, pieces: List[Any], seeds: List[Any]) -> List[Any]:
        """Applies a method of the source to every group's stacked pieces; joins each result in compartment order."""
        results: List[List[Any]] = []
        for (members, source), own in zip(self._groups, seeds):
            alone = len(pieces) == 1
            stacked = tf.expand_dims(pieces[0], 0) if alone else tf.stack([pieces[k] for k in members])
            outputs = getattr(source, method)(stacked, own)
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            if alone:  # the operations that join would cost more than a small basis
                return [tf.squeeze(output, 0) for output in outputs]
            results = results or [[None] * len(pieces) for _ in outputs]
            for slot, output in zip(results, outputs):
                for k, row in zip(members, tf.unstack(output)):
                    slot[k] = row
        return [tf.concat(slot, axis=0) for slot in results]

    def _gathered(self, method: str, operand: Any, seeds: List[Any]) -> List[Any]:
        """The same without pieces: entries are taken by a gather for each group, and put in place by one for all.

        XLA compiles for tens of seconds where hundreds of pieces are cut out and joined.
        """
        takes = self._places(coordinates=method == "expand")
        outputs: List[List[Any]] = []
        for (_, source), own, places in zip(self._groups, seeds, takes):
            output = getattr(source, method)(tf.gather(operand, tf.constant(places)), own)
            outputs.append(list(output) if isinstance(output, tuple) else [output])
        kinds = {"project": [True], "sketch": [True, False]}.get(method, [False])  # whether these are coordinates
        results = []
        for rows, coordinates in zip(zip(*outputs), kinds):
            places = np.concatenate([own.ravel() for own in self._places(coordinates)])
            order = np.argsort(places).astype(np.int32)
            results.append(tf.gather(tf.concat([tf.reshape(row, [-1]) for row in rows], axis=0), tf.constant(order)))
        return results

    def _places(self, coordinates: bool) -> List[np.ndarray]:
        """Where the entries of each group's compartments stand in the flat vector: int32 [G, n], or [G, d]."""
        sizes = [piece.dim if coordinates else piece.size for piece in self.compartments]
        starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
        across = [np.arange(sizes[members[0]], dtype=np.int32) for members, _ in self._groups]
        return [starts[members][:, np.newaxis] + own for (members, _), own in zip(self._groups, across)]


class OneProgram:
    """Takes the seeds of :class:`Many` in the order of groups, as the kernels of Numba do."""

    in_xla = True

    def __init__(self, many: Many, order: Sequence[int]):
        self._many, self._inverse = many, np.argsort(order).astype(np.int32)

    def run(self, method: str, operand: Any, seeds: Any) -> Tuple[Any, ...]:
        results = getattr(self._many, method)(operand, tf.gather(seeds, self._inverse))
        return results if isinstance(results, tuple) else (results,)


def subspace(
    compartments: Compartments,
    distribution: str,
    normalize: str,
    source: str,
    orthogonalize: bool = False,
) -> Subspace:
    """The subspace with these arguments; equal ones share their compiled programs."""
    # "auto" is another source on another device: what is shared goes by what it stands for here.
    return _shared(compartments, distribution, normalize, resolve(source), orthogonalize)


_shared = functools.lru_cache(maxsize=64)(Subspace)


def subspace_of(spec: BasisSpec, variables: Sequence[Any]) -> Subspace:
    """The subspace of a model's variables.

    Raises:
      ValueError: the scheme or d does not fit them.
    """
    cut = Compartments.of(variables, spec.compartments, spec.dim)
    return subspace(cut, spec.distribution, spec.normalize, spec.source, spec.orthogonalize)


def rbd_update(gradient: Any, project: Callable, exchange: Callable, expand: Callable) -> Any:
    """Algorithm 1 of the paper: u = P mean_k(P^T g_k), what to subtract in units of the learning rate.

    Args:
      gradient: g_k of this worker, float32 [D].
      project: c = P^T g, [D] -> [d].
      exchange: the mean of c over the workers, [d] -> [d]; of one worker, c itself.
      expand: u = P c, [d] -> [D].
    """
    coordinates = project(gradient)
    return expand(exchange(coordinates))


def _compile(function: Callable, jit: bool) -> Callable:
    """A program of its own, except inside one that XLA compiles as a whole, as those of an IPU are."""
    if not jit:
        return function
    compiled = program(function, jit=True)
    return lambda *arguments: (function if inside_xla() else compiled)(*arguments)


def _cut(vector: Any, sizes: List[int]) -> List[Any]:
    return tf.split(vector, sizes, axis=-1) if len(sizes) > 1 else [vector]


class RedrawnSubspace(Subspace):
    """Takes the numbers of draws of all directions, int32 [d], where :class:`Subspace` takes a step.

    The seed contract, for direction i of compartment k after n draws of it:

        direction key     fold_in(run seed, "redrawn", "worker", w, "compartment", k, i, n)

    Directions are drawn by the source ``counter``, on any device.

    Args:
      compartments, distribution, normalize: as for :class:`Subspace`; the distribution must be drawn entry by entry.

    Example:
      >>> from rbd_ipu.compartments import Compartments
      >>> space = RedrawnSubspace(Compartments.of([(30,)], "global", 2))
      >>> before, after = (space.directions(0, tf.constant(draws)).numpy() for draws in ([0, 0], [0, 1]))
      >>> (before == after).all(axis=1).tolist()
      [True, False]
    """

    def __init__(self, compartments: Compartments, distribution: str = "normal", normalize: str = "unit"):
        super().__init__(compartments, distribution, normalize, "counter")

    def _source_of(self, groups: int, size: int, dim: int) -> Source:
        rows = max(1, min(dim, BLOCK_FLOATS // (groups * size)))
        return Keyed(groups, size, dim, DISTRIBUTIONS.get(self.distribution), self.normalize, rows)

    def _many(self) -> Any:
        return None  # it makes keys from the seed of a compartment; here each direction comes with its own

    def _hash_seeds(self, seed: Any, draws: Any, worker: Any) -> List[Any]:
        """Keys of the directions of each group: int32 [G, d, 2]."""
        seed = fold_in(seed, "redrawn", "worker", worker)
        counts = tf.split(draws, [piece.dim for piece in self.compartments])
        keys = []
        for members, _ in self._groups:
            draws_here = tf.stack([counts[k] for k in members])  # [G, d]
            own = fold_in(seed, "compartment", tf.constant(members, tf.int32))[:, tf.newaxis, :]
            keys.append(schedule(fold_in(own, tf.range(draws_here.shape[1]), draws_here)))
        return keys


@functools.lru_cache(maxsize=64)
def redrawn(compartments: Compartments, distribution: str, normalize: str) -> RedrawnSubspace:
    """The subspace with these arguments; equal ones share their compiled programs."""
    return RedrawnSubspace(compartments, distribution, normalize)
