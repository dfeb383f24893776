"""How an IsolatedSession and its worker speak: pickles over a pair of connected sockets.

Arrays cross it as raw bytes beside the pickled answer, so a window of logits (512 x 152k float32, 311 MB) is never
copied into a pickle.
"""

from __future__ import annotations

import pickle
from multiprocessing.connection import Connection


def send(pipe: Connection, value: object) -> None:
    """Write any picklable value; the bytes of its arrays follow the pickle."""
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    pipe.send_bytes(pickle.dumps([len(b.raw()) for b in buffers]))
    pipe.send_bytes(head)
    for buffer in buffers:
        if len(buffer.raw()):
            pipe.send_bytes(buffer.raw())


def receive(pipe: Connection) -> object:
    """Read what `send` wrote. Both ends are ours: nothing of a model's files is ever unpickled."""
    sizes = pickle.loads(pipe.recv_bytes())
    head = pipe.recv_bytes()
    buffers = []
    for size in sizes:
        buffer = bytearray(size)  # recv_bytes would hand out bytes, and arrays over those cannot be written to
        if size:
            pipe.recv_bytes_into(buffer)
        buffers.append(buffer)
    return pickle.loads(head, buffers=buffers)
