"""Processes that train, or score, as one hear at once when one of them ends before the others, and end too, with a
sentence.

JAX notices by heartbeats, after most of a minute, and aborts with pages of its own. Here each process keeps a
connection to process 0: the kernel closes it when a process dies in whatever way, and keepalive finds out where a
machine did. Where process 0 leads the others (`leading`), SIGTERM goes the same way.
"""

import contextlib
import os
import re
import secrets
import signal
import socket
import sys
import threading
import time

from ehr_scaling.errors import Preempted, Unavailable
from ehr_scaling.processes import preemption

STATUS = Unavailable.status  # may be tried again
HEARTBEAT = 30  # seconds after which JAX gives a process up, that is not heard of
GRACE = 2.0  # seconds for a process that ends by itself, as where all have met the same error
_PATIENCE = 10.0  # seconds for a connection to be made, and to say whose it is
_BYE, _GONE, _ASKED = b"bye\n", b"gone %d\n", b"asked\n"
_GONE_LINE = re.compile(rb"gone (\d+)\n")

_peers: dict[int, socket.socket] = {}  # by their numbers
_left, _gone, _asked = threading.Event(), threading.Event(), threading.Event()
_facts = {"gone": -1, "processes": 1}


def watch() -> None:
    """Look after each other from now on; all processes of `jax.distributed` call it, once it is initialized.

    Where process 0 cannot be reached on any port but JAX's own, JAX alone notices.
    """
    import jax
    import numpy as np
    from jax._src.distributed import global_state
    from jax.experimental import multihost_utils

    processes, index = jax.process_count(), jax.process_index()
    if processes == 1:
        return
    host = (global_state.coordinator_address or "").rpartition(":")[0].strip("[]")
    _facts["processes"] = processes
    family = {"family": socket.AF_INET6, "dualstack_ipv6": True} if socket.has_dualstack_ipv6() else {}
    server = socket.create_server(("", 0), **family) if index == 0 else None  # type: ignore[arg-type]
    # The word tells a companion from whoever else may try that port
    told = np.array([server.getsockname()[1] if server else 0, secrets.randbelow(2**31)], np.int32)
    port, word = multihost_utils.broadcast_one_to_all(told).tolist()
    if server is not None:
        threading.Thread(target=_accept, args=(server, word, set(range(1, processes))), daemon=True).start()
        return
    with contextlib.suppress(OSError):
        peer = socket.create_connection((host, port), timeout=_PATIENCE)
        peer.sendall(b"%d %d\n" % (word, index))
        _listen(0, peer)


def leave() -> None:
    """Say that this process is through, or ends as the others do."""
    _left.set()
    for peer in list(_peers.values()):
        with contextlib.suppress(OSError):
            peer.sendall(_BYE)


def ask() -> bool:
    """Tell process 0, which leads, that this one was asked to end; gives whether it can be told."""
    with contextlib.suppress(OSError, KeyError):
        _peers[0].sendall(_ASKED)
        return True
    return False


def dismiss() -> None:
    """By process 0, which leads, was asked to end and does so: tell the others, which are to end too."""
    _left.set()
    for peer in list(_peers.values()):
        with contextlib.suppress(OSError):
            peer.sendall(_ASKED)


def dismissed() -> bool:
    """Whether process 0 has said so."""
    return _asked.is_set()


def told(patience: float = 1.0) -> str | None:
    """What to say where another process has ended, since an error may be no more than a consequence of that; None where
    none has within so many seconds, or this one is alone."""
    if not _peers or not _gone.wait(patience):
        return None
    return (
        f"process {_facts['gone']} of {_facts['processes']} has ended before the others: see what it said; started "
        "again together, all go on from what was saved last"
    )


def _accept(server: socket.socket, word: int, awaited: set[int]) -> None:
    while awaited:
        peer, _address = server.accept()
        peer.settimeout(_PATIENCE)
        line = b""
        with contextlib.suppress(OSError):
            while not line.endswith(b"\n") and len(line) < 32 and (more := peer.recv(1)):
                line += more
        number = next((n for n in awaited if line == b"%d %d\n" % (word, n)), None)
        if number is None:
            peer.close()
            continue
        awaited.discard(number)
        _listen(number, peer)
    server.close()


def _listen(number: int, peer: socket.socket) -> None:
    peer.settimeout(None)
    for level, name, value in (
        (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
        (socket.IPPROTO_TCP, "TCP_KEEPIDLE", 5),
        (socket.IPPROTO_TCP, "TCP_KEEPINTVL", 5),
        (socket.IPPROTO_TCP, "TCP_KEEPCNT", 3),
    ):
        if hasattr(socket, name):
            peer.setsockopt(level, getattr(socket, name), value)
    _peers[number] = peer
    threading.Thread(target=_hear, args=(number, peer), daemon=True).start()


def _until_closed(peer: socket.socket) -> None:
    peer.settimeout(HEARTBEAT)
    with contextlib.suppress(OSError):
        while peer.recv(64):
            pass


def _hear(number: int, peer: socket.socket) -> None:
    said = b""
    with contextlib.suppress(OSError):
        while True:
            while b"\n" not in said and (more := peer.recv(64)):
                said += more
            if not said.startswith(_ASKED):
                break
            said = said.removeprefix(_ASKED)
            _asked.set()
            if number != 0 and not _left.is_set():  # this is process 0: as if the signal had come here
                os.kill(os.getpid(), signal.SIGTERM)
            elif number == 0 and not _left.wait(GRACE / 2):  # in the middle of what nobody can break off
                # Who ends first may end Slurm's step, before process 0 has queued it again
                if "SLURM_JOB_ID" in os.environ:
                    _until_closed(peer)
                end(f"error: {preemption.SAVED}", Preempted.status)
    if said.startswith(_BYE):
        return
    if not _gone.is_set():
        whole = _GONE_LINE.match(said)  # who says it may end in the middle of it
        _facts["gone"] = int(whole[1]) if whole else number
        _gone.set()
    if number != 0:
        time.sleep(GRACE)
    if _left.is_set():
        return
    for other, each in list(_peers.items()):
        if other != number:
            with contextlib.suppress(OSError):
                each.sendall(_GONE % number)
    end(f"error: {told()}")


def fail(line: str, status: int) -> None:
    """Where this process is one of several: say a line and end, and not wait for others that may be at work."""
    if not _peers:
        return
    import jax

    _left.set()
    if line:
        print(line, file=sys.stderr, flush=True)
    together = threading.Thread(target=jax.distributed.shutdown, daemon=True)  # where all fail alike, they end cleanly
    together.start()
    together.join(GRACE)
    end("", status)


def end(line: str, status: int = STATUS) -> None:
    """Say a line and end at once: the others cannot be waited for."""
    try:
        if line:
            print(line, file=sys.stderr, flush=True)
        sys.stdout.flush()
    finally:
        os._exit(status)
