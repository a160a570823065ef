"""Meeting: neighbours find each other, strangers do not get in, and what cannot be reached is said by all."""

import contextlib
import itertools
import socket
import threading

import numpy as np
import pytest

from rbd_ipu.exchange.ring import Ring
from rbd_ipu.workers import meeting
from rbd_ipu.workers.meeting import TOKEN, meet

HOME = "127.0.0.1:1"


class Table:
    """What K threads tell each other, as the collectives of a cluster would have it."""

    def __init__(self, workers):
        self.words, self.rounds = [None] * workers, []
        self.barrier = threading.Barrier(workers, action=lambda: self.rounds.append(np.array(self.words)))

    def tell(self, index, words):
        self.words[index], turn = words, len(self.rounds)
        self.barrier.wait(10.0)
        return self.rounds[turn]


def met(addresses, patience=5.0, watch=lambda index, words: None):
    """What each of the workers at these addresses got."""
    table, found = Table(len(addresses)), [None] * len(addresses)

    def one(index):
        def tell(words):
            heard = table.tell(index, words)
            watch(index, heard)
            return heard

        found[index] = meet(index, addresses, tell, patience)

    threads = [threading.Thread(target=one, args=(k,)) for k in range(len(addresses))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30.0)
    return found, table


def closed(found):
    for end in [end for both in found if both for end in both]:
        end.close()


@pytest.mark.parametrize("workers", [2, 3, 5])
def test_they_make_a_ring(workers):
    found, table = met([HOME] * workers)
    rings = [Ring(k, workers, *ends, patience=5.0) for k, ends in enumerate(found)]
    rows = [None] * workers
    threads = [
        threading.Thread(target=lambda k=k: rows.__setitem__(k, rings[k].gather(np.array([k]))[:, 0].tolist()))
        for k in range(workers)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10.0)
    assert rows == [list(range(workers))] * workers
    assert len({tuple(row[1:]) for row in table.rounds[0]}) == workers  # a token each
    closed(found)


def test_nothing_listens_afterwards_and_only_loopback_did(monkeypatch):
    places, listening = [], meeting.listening

    def spied(host):
        one = listening(host)
        places.append(one.getsockname())
        return one

    monkeypatch.setattr(meeting, "listening", spied)
    found, _ = met([HOME] * 2)
    assert [host for host, _ in places] == ["127.0.0.1"] * 2
    for place in places:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(place, timeout=1.0)
    closed(found)


@pytest.mark.parametrize("words", [b"", b"x" * TOKEN, b"GET / HTTP/1.1\r\n\r\n"], ids=["silent", "wrong", "http"])
def test_a_stranger_does_not_get_in(words):
    strangers = []

    def call(index, heard):
        if index == 0 and heard.shape[1] > 1:  # before worker 0's neighbour can
            stranger = socket.create_connection(("127.0.0.1", int(heard[1, 0])), timeout=5.0)
            stranger.sendall(words)
            strangers.append(stranger)

    found, _ = met([HOME] * 2, watch=call)
    assert all(found)
    for left, right in found:
        assert {left.getpeername(), right.getpeername()}.isdisjoint(s.getsockname() for s in strangers)
    strangers[0].settimeout(5.0)
    with contextlib.suppress(ConnectionResetError):
        assert strangers[0].recv(1) == b""  # hung up on
    strangers[0].close()
    closed(found)


@pytest.mark.parametrize("address", ["192.0.2.1:1", "no-such-host.invalid:1", "[2001:db8::1]:1"])
def test_where_one_has_an_address_that_is_not_its_own_none_is_connected(address):
    found, table = met([HOME, address], patience=1.0)
    assert found == [None, None]
    assert 0 in table.rounds[0][:, 0]


def test_where_one_cannot_be_reached_none_is_connected(monkeypatch):
    """As behind a firewall that lets only the ports of TF_CONFIG through."""
    called, calls = meeting._called, itertools.count()
    monkeypatch.setattr(meeting, "_called", lambda *place: called(*place) if next(calls) else None)
    found, _ = met([HOME] * 2, patience=0.5)
    assert found == [None, None]
