"""How an IsolatedSession and its worker speak: pickles over a pair of connected sockets.

Arrays do not go into the pickle. Small ones follow it as raw bytes; a window of logits (512 x 152k float32, 311 MB) is
written once into memory that both processes map, where the system has such memory (Linux).
"""

from __future__ import annotations

import mmap
import os
import pickle
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle

SHARED_BYTES = 1 << 20  # what is smaller is through the pipe before memory is mapped
_SHARES = hasattr(os, "memfd_create")


def send(pipe: Connection, value: object) -> None:
    """Write any picklable value; the bytes of its arrays follow the pickle."""
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    views = [buffer.raw() for buffer in buffers]
    pipe.send_bytes(pickle.dumps([(len(view), _SHARES and len(view) >= SHARED_BYTES) for view in views]))
    pipe.send_bytes(head)
    for view in views:
        if _SHARES and len(view) >= SHARED_BYTES:
            _share(pipe, view)
        elif len(view):
            pipe.send_bytes(view)


def receive(pipe: Connection) -> object:
    """Read what `send` wrote. Both ends are ours: nothing of a model's files is ever unpickled."""
    sizes = pickle.loads(pipe.recv_bytes())
    head = pipe.recv_bytes()
    return pickle.loads(head, buffers=[_mapped(pipe, size) if shared else _read(pipe, size) for size, shared in sizes])


def _share(pipe: Connection, view: memoryview) -> None:
    memory = os.memfd_create("array")
    try:
        while view:
            view = view[os.write(memory, view) :]
        send_handle(pipe, memory, 0)
    finally:
        os.close(memory)


def _mapped(pipe: Connection, size: int) -> mmap.mmap:
    """The other side's memory, which is free again when the last array over it is gone."""
    memory = recv_handle(pipe)
    try:
        return mmap.mmap(memory, size)
    finally:
        os.close(memory)


def _read(pipe: Connection, size: int) -> bytearray:
    buffer = bytearray(size)  # recv_bytes would hand out bytes, and arrays over those cannot be written to
    if size:
        pipe.recv_bytes_into(buffer)
    return buffer
