"""What a rank takes of its machine, with GPUs that are not there."""

import pytest

from rbd_ipu._compat import tf
from rbd_ipu.devices import cluster


class Ranks:
    """Ranks 4 to 7 of eight, on one machine; each says what its launcher has given it."""

    size, locals = 8, 4

    def __init__(self, local, given):
        self.rank, self.local = 4 + local, local
        self.neighbours = {4 + k: 1000 + k for k in range(4) if k != local}
        self.given = ["elsewhere"] * 4 + given

    def __str__(self):
        return f"rank {self.rank} of {self.size}"

    def facts(self, own):
        return self.given


@pytest.fixture
def taken(monkeypatch):
    """Calls with so many GPUs; what has become visible."""

    def take(count, local, given):
        seen = []
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [f"{kind}:{k}" for k in range(count)])
        monkeypatch.setattr(tf.config, "set_visible_devices", lambda devices, kind: seen.append((devices, kind)))
        cluster._take_gpu(Ranks(local, given))
        return seen

    return take


@pytest.mark.parametrize("local", range(4))
def test_rank_r_of_a_machine_takes_its_gpu_r(taken, local):
    assert taken(4, local, [None] * 4) == [(f"GPU:{local}", "GPU")]
    assert taken(4, local, ["0,1,2,3"] * 4) == [(f"GPU:{local}", "GPU")], "the same for all is not dealt"


def test_a_gpu_that_the_launcher_has_dealt_is_the_ranks_own(taken):
    assert taken(1, 2, ["0", "1", "2", "3"]) == [("GPU:0", "GPU")]


def test_fewer_gpus_than_ranks_are_refused(taken):
    with pytest.raises(RuntimeError, match="rank 7 of 8: 4 ranks are on this machine, and TensorFlow sees 2 GPUs"):
        taken(2, 3, [None] * 4)
