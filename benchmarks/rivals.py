"""Other methods of small messages or small states, written from the formulas of their papers for the comparison.

    top-k       https://arxiv.org/abs/1809.07599 (Stich et al. 2018), 1712.01887 (Lin et al. 2018):
                values of 4 bytes, indices of ceil(log2 n) bits
    PowerSGD    https://arxiv.org/abs/1905.13727 (Vogels et al. 2019): P, Q and vectors in float32
    1-bit Adam  https://arxiv.org/abs/2102.02888 (Tang et al. 2021): a bit each and a scale a variable; before, 4 D
    DeMo        https://arxiv.org/abs/2411.19870 (Peng et al. 2024): 4 bytes a value, 8 an index, as in its code
    GaLore      https://arxiv.org/abs/2403.03507 (Zhao et al. 2024): the whole gradient
    APOLLO      https://arxiv.org/abs/2412.05270 (Zhu et al. 2024): the whole gradient

Gradients of K simulated workers come as float32 [K, *shape]. A message is what one worker hands to the collective:
the bytes on the wire are those of a gather or a reduction of it. Floats of state are those of one worker.
"""

import math
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

import numpy as np
from simulated import Simulated

from rbd_ipu._compat import tf

EPSILON = 1e-7  # of Adam, as in Keras


class Rival(Simulated):
    """A method that takes one variable after the other: theta <- theta - rate * direction.

    Args:
      rate: a number, or a schedule: step -> rate.
    """

    def __init__(self, rate: Any):
        self.rate = rate

    def build(self, variables: Sequence[Any], workers: int) -> None:
        super().build(variables, workers)
        self.shapes = [tuple(int(n) for n in v.shape) for v in variables]
        self.sizes = [int(np.prod(shape, dtype=np.int64)) for shape in self.shapes]
        self.slots: List[Dict[str, Any]] = [
            {name: _variable(value) for name, value in self.state(i).items()} for i in range(len(self.shapes))
        ]

    def apply(self, gradients: Sequence[Any]) -> None:
        step = tf.identity(self.step)
        rate = self.rate(step) if callable(self.rate) else self.rate
        for i, (variable, g) in enumerate(zip(self.variables, gradients)):
            variable.assign_sub(rate * tf.reshape(self.direction(i, g, step), self.shapes[i]))
        self.step.assign_add(1)

    def state(self, i: int) -> Dict[str, Any]:
        """Name -> the first value of what is kept for variable i; what each worker has of its own begins with K."""
        raise NotImplementedError

    def direction(self, i: int, g: Any, step: Any) -> Any:
        """What to go along: the gradients [K, *shape] of variable i -> [*shape], or as long."""
        raise NotImplementedError

    #: Slots that each worker has of its own.
    own: Tuple[str, ...] = ()

    @property
    def state_floats(self) -> float:
        """Numbers that one worker keeps between two steps, beside the weights."""
        return float(
            sum(
                int(tf.size(slot)) // (self.workers if name in self.own else 1)
                for slots in self.slots
                for name, slot in slots.items()
            )
        )

    @property
    def message_bytes(self) -> float:
        """Bytes of the message of one worker."""
        return 4.0 * sum(self.sizes)


def _variable(value: Any) -> Any:
    return tf.Variable(tf.cast(value, tf.float32), trainable=False)


# --- the maths: pure functions, in the symbols of the papers -----------------------------------------------------


def kept(x: Any, k: int) -> Any:
    """The k entries of the largest size of each row, and which they are: [B, n] -> float32 [B, n], bool [B, n]."""
    rows, n = tf.shape(x)[0], x.shape[1]
    index = tf.math.top_k(tf.abs(x), k).indices + n * tf.range(rows)[:, tf.newaxis]
    flat = tf.reshape(index, [-1, 1])
    mask = tf.reshape(tf.scatter_nd(flat, tf.ones([rows * k]), [rows * n]), [rows, n])
    return x * mask, mask > 0


def orthogonal(P: Any) -> Any:
    """Gram-Schmidt on the columns: [n, r] -> [n, r]."""
    columns: List[Any] = []
    for p in tf.unstack(P, axis=1):
        for q in columns:
            p -= tf.reduce_sum(p * q) * q
        columns.append(p / (tf.norm(p) + 1e-8))
    return tf.stack(columns, axis=1)


def low_rank(M: Any, Q: Any) -> Tuple[Any, Any]:
    """Algorithm 1 of PowerSGD: P Q^T of the mean, and the new Q. M [K, n, m], Q [m, r] -> [n, m], [m, r]."""
    P = orthogonal(tf.reduce_mean(M @ Q, axis=0))
    Q = tf.reduce_mean(tf.matmul(M, P, transpose_a=True), axis=0)
    return tf.matmul(P, Q, transpose_b=True), Q


def one_bit(x: Any) -> Any:
    """Signs, scaled to the norm of x: [B, n] -> [B, n]."""
    scale = tf.norm(x, axis=1, keepdims=True) / math.sqrt(x.shape[1])
    return tf.where(x < 0, -scale, scale)


def adam(slots: Dict[str, Any], g: Any, step: Any, beta_1: float, beta_2: float) -> Any:
    """m / (sqrt(v) + epsilon), both freed of their bias, after they have taken up g."""
    t = tf.cast(step + 1, tf.float32)
    m = slots["m"].assign(beta_1 * slots["m"] + (1 - beta_1) * g)
    v = slots["v"].assign(beta_2 * slots["v"] + (1 - beta_2) * g * g)
    return m / (1 - beta_1**t) / (tf.sqrt(v / (1 - beta_2**t)) + EPSILON)


def cosines(n: int) -> np.ndarray:
    """The orthonormal DCT-II, C x: [n, n]."""
    k, j = np.mgrid[:n, :n]
    C = np.sqrt(2.0 / n) * np.cos(np.pi * (2 * j + 1) * k / (2 * n))
    C[0] /= np.sqrt(2.0)
    return np.where(np.abs(C) < 1e-12, 0.0, C)  # a sign is taken later: of 0, not of what rounding leaves


def leading(G: Any, r: int) -> Any:
    """The r leading left singular vectors: [a, b] -> [a, r]; the largest entry of each is positive."""
    U = tf.linalg.svd(G)[1][:, :r]
    largest = tf.gather(tf.transpose(U), tf.argmax(tf.abs(U), axis=0), axis=1, batch_dims=1)
    return U * tf.sign(largest)


# --- small messages ----------------------------------------------------------------------------------------------


class TopK(Rival):
    """The largest entries of each variable; what was not sent is sent later::

        u_k <- momentum u_k + g_k,   v_k <- v_k + u_k,   q_k = the k largest of v_k
        v_k <- v_k - q_k,            u_k <- 0 where q_k was sent
        theta <- theta - rate (1/K) sum_k q_k

    Without momentum it is the error feedback of Stich et al. (theirs keeps rate * g_k); with it, the momentum
    correction and the factor masking of Lin et al. Their warm-up of the density is left out: it would send more.
    """

    own = ("u", "v")

    def __init__(self, rate: Any, fraction: float, momentum: float = 0.9):
        super().__init__(rate)
        self.fraction, self.momentum = fraction, momentum

    def sent(self, n: int) -> int:
        """k of n."""
        return max(1, round(self.fraction * n))

    def state(self, i: int) -> Dict[str, Any]:
        zeros = np.zeros((self.workers, self.sizes[i]))
        return {"u": zeros, "v": zeros} if self.momentum else {"v": zeros}

    def direction(self, i: int, g: Any, step: Any) -> Any:
        slots, u = self.slots[i], tf.reshape(g, [self.workers, -1])
        if self.momentum:
            u = self.momentum * slots["u"] + u
        v = slots["v"] + u
        q, mask = kept(v, self.sent(self.sizes[i]))
        slots["v"].assign(v - q)
        if self.momentum:
            slots["u"].assign(tf.where(mask, 0.0, u))
        return tf.reduce_mean(q, axis=0)

    @property
    def message_bytes(self) -> float:
        return sum(math.ceil(self.sent(n) * (32 + math.ceil(math.log2(n))) / 8) for n in self.sizes)


class PowerSGD(Rival):
    """Rank r of each matrix, with error feedback and a warm start; vectors go as they are::

        M_k = G_k + E_k,   P = orthogonal(mean_k M_k Q),   Q <- mean_k M_k^T P,   E_k <- M_k - P Q^T
        m <- momentum m + P Q^T,   theta <- theta - rate (P Q^T + m)

    A matrix is compressed where that is shorter. With ``then="adam"`` Adam takes P Q^T, instead of momentum; the
    paper has no such row, but language models are trained so.
    """

    own = ("E",)

    def __init__(self, rate: Any, rank: int, momentum: float = 0.9, then: str = "momentum", seed: int = 0):
        super().__init__(rate)
        self.rank, self.momentum, self.then, self.seed = rank, momentum, then, seed

    def matrix(self, i: int) -> Any:
        """[n, m] of a variable that is compressed; None for others."""
        if len(self.shapes[i]) < 2:
            return None
        m = self.shapes[i][-1]
        n = self.sizes[i] // m
        return (n, m) if self.rank * (n + m) < n * m else None

    def state(self, i: int) -> Dict[str, Any]:
        shape = self.matrix(i)
        state = {"m": np.zeros(shape or self.shapes[i])}
        if self.then == "adam":
            state["v"] = state["m"]
        if shape:
            draw = np.random.default_rng([self.seed, i]).standard_normal((shape[1], self.rank))
            state.update(E=np.zeros((self.workers, *shape)), Q=draw)
        return state

    def direction(self, i: int, g: Any, step: Any) -> Any:
        slots, shape = self.slots[i], self.matrix(i)
        if shape is None:
            update = tf.reduce_mean(g, axis=0)
        else:
            M = tf.reshape(g, [self.workers, *shape]) + slots["E"]
            update, Q = low_rank(M, tf.identity(slots["Q"]))
            slots["Q"].assign(Q)
            slots["E"].assign(M - update)
        if self.then == "adam":
            return adam(slots, update, step, 0.9, 0.99)
        return update + slots["m"].assign(self.momentum * slots["m"] + update)

    @property
    def message_bytes(self) -> float:
        shapes = [self.matrix(i) for i in range(len(self.sizes))]
        return 4.0 * sum(self.rank * sum(shape) if shape else n for shape, n in zip(shapes, self.sizes))


class OneBitAdam(Rival):
    """Adam for the first steps; then v stays, and the momentum is sent as signs, there and back::

        m_k = beta_1 m + (1 - beta_1) g_k,   q_k = bits(m_k + e_k),   e_k <- m_k + e_k - q_k
        s = (1/K) sum_k q_k + e,             m <- bits(s),            e <- s - m
        theta <- theta - rate m / (sqrt(v) + epsilon)

    bits(x) is sign(x) norm(x) / sqrt(n), for each variable; neither part of Adam is freed of its bias, as in the
    paper. Where v is 0 the weights stay. Each worker is the server of a part of e; the two exchanges of a part each
    have the bytes of an all-reduce of the signs.
    """

    own = ("e_own",)

    def __init__(self, rate: Any, steps: int, warm_up: int, beta_1: float = 0.9, beta_2: float = 0.99):
        super().__init__(rate)
        self.steps, self.warm_up, self.betas = steps, warm_up, (beta_1, beta_2)

    def state(self, i: int) -> Dict[str, Any]:
        n = self.sizes[i]
        return {"m": np.zeros(n), "v": np.zeros(n), "e_own": np.zeros((self.workers, n)), "e": np.zeros(n)}

    def direction(self, i: int, g: Any, step: Any) -> Any:
        slots, (beta_1, beta_2) = self.slots[i], self.betas
        g = tf.reshape(g, [self.workers, -1])

        def first() -> Any:
            mean = tf.reduce_mean(g, axis=0)
            slots["v"].assign(beta_2 * slots["v"] + (1 - beta_2) * mean * mean)
            return beta_1 * slots["m"] + (1 - beta_1) * mean

        def later() -> Any:
            z = beta_1 * slots["m"] + (1 - beta_1) * g + slots["e_own"]
            q = one_bit(z)
            slots["e_own"].assign(z - q)
            s = tf.reduce_mean(q, axis=0) + slots["e"]
            m = one_bit(s[tf.newaxis])[0]
            slots["e"].assign(s - m)
            return m

        m = slots["m"].assign(tf.cond(step < self.warm_up, first, later))
        v = tf.convert_to_tensor(slots["v"])
        return tf.where(v > 0, m / (tf.sqrt(v) + EPSILON), 0.0)

    @property
    def state_floats(self) -> float:
        D = sum(self.sizes)
        return 3.0 * D + (D / self.workers if self.workers > 1 else 0.0)

    @property
    def frozen_bytes(self) -> float:
        """Of a message after the warm-up."""
        return float(sum(math.ceil(n / 8) + 4 for n in self.sizes))

    @property
    def message_bytes(self) -> float:
        dense = min(self.warm_up, self.steps)
        return (4.0 * sum(self.sizes) * dense + self.frozen_bytes * (self.steps - dense)) / self.steps


class Chunks(NamedTuple):
    """How DeMo cuts a matrix [n, m] into chunks [a, b]."""

    n: int
    m: int
    a: int
    b: int

    @property
    def count(self) -> int:
        """How many there are."""
        return self.n // self.a * (self.m // self.b)


class DeMo(Rival):
    """The largest cosine coefficients of the momentum of each worker; the sign of their mean::

        m_k <- decay m_k + g_k,   q_k = C^T top(C m_k),   m_k <- m_k - q_k
        theta <- theta - rate sign((1/K) sum_k q_k)

    C is the DCT of chunks of at most 64 x 64 (of vectors, 64), the largest that divide a variable. The authors' code
    adds coefficients up as the mean over those that sent them; the paper says no more than "synchronize".
    """

    own = ("m",)

    def __init__(self, rate: Any, top: int = 32, decay: float = 0.999, chunk: int = 64):
        super().__init__(rate)
        self.top, self.decay, self.chunk = top, decay, chunk

    def chunks(self, i: int) -> Chunks:
        """Those of variable i; a vector is a matrix of one row."""
        m = self.shapes[i][-1] if self.shapes[i] else 1
        n = self.sizes[i] // m
        a, b = (max(c for c in range(1, self.chunk + 1) if size % c == 0) for size in (n, m))
        return Chunks(n, m, a, b)

    def state(self, i: int) -> Dict[str, Any]:
        chunks = self.chunks(i)
        return {"m": np.zeros((self.workers, chunks.n, chunks.m))}

    def direction(self, i: int, g: Any, step: Any) -> Any:
        n, m, a, b = self.chunks(i)
        slot, K = self.slots[i]["m"], self.workers
        A, B = (tf.constant(cosines(size), tf.float32) for size in (a, b))
        x = self.decay * slot + tf.reshape(g, [K, n, m])
        cut = tf.transpose(tf.reshape(x, [K, n // a, a, m // b, b]), [0, 1, 3, 2, 4])
        c = A @ cut @ tf.transpose(B)
        c = tf.reshape(kept(tf.reshape(c, [-1, a * b]), min(self.top, a * b))[0], cut.shape)
        q = tf.reshape(tf.transpose(tf.transpose(A) @ c @ B, [0, 1, 3, 2, 4]), [K, n, m])
        slot.assign(x - q)
        return tf.sign(tf.reduce_mean(q, axis=0))

    def _bytes(self, index_bits: Any) -> float:
        total = 0.0
        for i in range(len(self.sizes)):
            _, _, a, b = chunks = self.chunks(i)
            total += chunks.count * min(self.top, a * b) * (32 + index_bits(a * b)) / 8
        return total

    @property
    def message_bytes(self) -> float:
        return self._bytes(lambda n: 64)

    @property
    def packed_bytes(self) -> float:
        """With indices of as many bits as they need."""
        return self._bytes(lambda n: math.ceil(math.log2(n)))


# --- small states ------------------------------------------------------------------------------------------------


class _OfMatrices(Rival):
    """What GaLore and APOLLO share: matrices [a, b], the shorter side first, in rank r; Adam for the rest.

    Args:
      rate: as for all.
      rank: r.
      every: steps that a projection serves.
      scale: alpha, of the steps of matrices.
      outside: names of layers whose matrices get Adam: embeddings and the output, as in both papers.
    """

    def __init__(
        self,
        rate: Any,
        rank: int,
        every: int = 200,
        scale: float = 0.25,
        outside: Sequence[str] = ("embedding", "positions", "logits"),
        betas: Tuple[float, float] = (0.9, 0.99),
        seed: int = 0,
    ):
        super().__init__(rate)
        self.rank, self.every, self.scale, self.outside = rank, every, scale, tuple(outside)
        self.betas, self.seed = betas, seed

    def projected(self, i: int) -> bool:
        """Whether variable i is a matrix that is projected."""
        name = getattr(self.variables[i], "path", self.variables[i].name)
        shape = self.shapes[i]
        return len(shape) == 2 and min(shape) > self.rank and not any(word in name for word in self.outside)

    def state(self, i: int) -> Dict[str, Any]:
        if not self.projected(i):
            return {"m": np.zeros(self.shapes[i]), "v": np.zeros(self.shapes[i])}
        zeros = np.zeros((self.rank, max(self.shapes[i])))
        return {"m": zeros, "v": zeros, **self.more(i)}

    def more(self, i: int) -> Dict[str, Any]:
        """What else is kept of a matrix."""
        raise NotImplementedError

    def direction(self, i: int, g: Any, step: Any) -> Any:
        G = tf.reduce_mean(g, axis=0)
        if not self.projected(i):
            return adam(self.slots[i], G, step, *self.betas)
        tall = self.shapes[i][0] > self.shapes[i][1]
        update = self.of_matrix(i, tf.transpose(G) if tall else G, step)
        return tf.transpose(update) if tall else update

    def of_matrix(self, i: int, G: Any, step: Any) -> Any:
        """The direction of a matrix [a, b] with a <= b."""
        raise NotImplementedError


class GaLore(_OfMatrices):
    """Adam in the leading singular vectors of the gradient, taken anew every so many steps::

    P = U[:, :r] of G = U S V^T, every T steps;   theta <- theta - rate alpha P Adam(P^T G)
    """

    def more(self, i: int) -> Dict[str, Any]:
        return {"P": np.zeros((min(self.shapes[i]), self.rank))}

    def of_matrix(self, i: int, G: Any, step: Any) -> Any:
        slot = self.slots[i]["P"]
        old = tf.convert_to_tensor(slot)
        P = slot.assign(tf.cond(tf.equal(step % self.every, 0), lambda: leading(G, self.rank), lambda: old))
        return self.scale * (P @ adam(self.slots[i], tf.matmul(P, G, transpose_a=True), step, *self.betas))


class Apollo(_OfMatrices):
    """The gradient, each column scaled as Adam would scale it in a random projection::

        R = P G, entries of P normal with variance 1/r, drawn anew every T steps;   R' = Adam(R)
        s_j = norm(R'[:, j]) / norm(R[:, j]),   U = alpha G diag(s)
        U <- U gamma norm(U of before) / norm(U) where norm(U) is more than gamma = 1.01 times that of before

    With ``whole`` one s for the matrix: APOLLO-Mini, of rank 1 and alpha = sqrt(128).
    """

    GAMMA = 1.01

    def __init__(self, rate: Any, rank: int, scale: float = 1.0, whole: bool = False, **options: Any):
        super().__init__(rate, rank, scale=scale, **options)
        self.whole = whole

    def more(self, i: int) -> Dict[str, Any]:
        return {"norm": np.zeros(())}

    def projection(self, i: int, draw: Any) -> Any:
        """P of variable i, the draw-th: [r, a]."""
        seed = tf.stack([tf.constant(self.seed * 1_000 + i), tf.cast(draw, tf.int32)])
        return tf.random.stateless_normal([self.rank, min(self.shapes[i])], seed) / math.sqrt(self.rank)

    def of_matrix(self, i: int, G: Any, step: Any) -> Any:
        slots = self.slots[i]
        R = self.projection(i, step // self.every) @ G
        scaled = adam(slots, R, step, *self.betas)
        axis = None if self.whole else 0
        s = tf.norm(scaled, axis=axis, keepdims=True) / (tf.norm(R, axis=axis, keepdims=True) + 1e-12)
        U = self.scale * G * s
        before, now = tf.convert_to_tensor(slots["norm"]), tf.norm(U)
        limit = self.GAMMA * before
        U = tf.where((step > 0) & (now > limit), U * (limit / (now + 1e-12)), U)
        slots["norm"].assign(tf.norm(U))
        return U


__all__ = ["Apollo", "DeMo", "GaLore", "OneBitAdam", "PowerSGD", "Rival", "TopK"]
