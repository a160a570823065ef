"""The muster: all or none, by a deadline, and it says who is missing."""

import socket
import threading
import time

import pytest

from rbd_ipu.workers import ports
from rbd_ipu.workers.errors import WorkersError
from rbd_ipu.workers.muster import muster


@pytest.fixture
def addresses():
    return [f"127.0.0.1:{port}" for port in ports.free(3)]


def started(addresses, *indices, patience=10.0, given=None):
    """Threads that are workers, and what came of each: None, or the words of an error."""
    found = {}

    def one(index):
        try:
            muster(index, (given or {}).get(index, addresses), patience)
            found[index] = None
        except WorkersError as error:
            found[index] = str(error)

    threads = [threading.Thread(target=one, args=(k,)) for k in indices]
    for thread in threads:
        thread.start()
    return threads, found


def finished(threads):
    for thread in threads:
        thread.join(30.0)
        assert not thread.is_alive()


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_all_go_on_together_whoever_comes_first(addresses, order):
    threads, found = started(addresses, *order[:2])
    time.sleep(0.3)
    assert not found
    more, last = started(addresses, order[2])
    finished(threads + more)
    assert {**found, **last} == {0: None, 1: None, 2: None}


def test_the_first_worker_names_those_who_are_missing(addresses):
    threads, found = started(addresses, 0, 1, patience=0.8)
    finished(threads)
    assert found[0] == "worker 0 of 3: workers [2] did not come within 0.8 s"
    assert f"worker 1 of 3: worker 0 at {addresses[0]} does not answer within 0.8 s" in found[1]


def test_without_the_first_worker_the_others_give_up_too(addresses):
    threads, found = started(addresses, 2, patience=0.5)
    finished(threads)
    assert "worker 2 of 3: worker 0 at" in found[2]


def test_workers_of_another_cluster_are_told(addresses):
    threads, found = started(addresses, 0, 1, patience=1.0, given={1: [*addresses[:2], "127.0.0.1:9"]})
    finished(threads)
    assert "was given a TF_CONFIG with other addresses" in found[1]
    assert "workers [1, 2] did not come" in found[0]


def test_one_that_left_before_the_last_came_must_come_again(addresses):
    """A worker that was killed while it waited is not counted; started again, it is."""
    threads, found = started(addresses, 0)
    time.sleep(0.3)
    doomed, _ = started(addresses, 1, patience=0.4)
    finished(doomed)
    last, others = started(addresses, 2)
    time.sleep(0.5)
    assert not found and not others
    again, third = started(addresses, 1)
    finished(threads + last + again)
    assert {**found, **others, **third} == {0: None, 1: None, 2: None}


@pytest.mark.parametrize("words", [b"", b"GET / HTTP/1.1\r\n\r\n", b"x" * 36, b"x" * 500], ids=len)
def test_strangers_do_no_harm(addresses, words):
    threads, found = started(addresses, 0)
    host, port = addresses[0].split(":")
    strangers = []
    for _ in range(3):
        deadline = time.monotonic() + 10
        while True:
            try:
                strangers.append(socket.create_connection((host, int(port)), timeout=5.0))
                break
            except ConnectionRefusedError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        strangers[-1].sendall(words)
    more, others = started(addresses, 1, 2)
    finished(threads + more)
    assert {**found, **others} == {0: None, 1: None, 2: None}
    for stranger in strangers:
        stranger.close()


def test_the_port_is_free_afterwards(addresses):
    """TensorFlow's server takes it over."""
    threads, found = started(addresses, 0, 1, 2)
    finished(threads)
    host, port = addresses[0].split(":")
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((host, int(port)))
        server.listen()


def test_an_address_that_something_else_listens_on_is_quoted(addresses):
    host, port = addresses[0].split(":")
    with socket.socket() as other:
        other.bind((host, int(port)))
        other.listen()
        with pytest.raises(WorkersError, match=f"cannot listen on {addresses[0]}"):
            muster(0, addresses, 1.0)
