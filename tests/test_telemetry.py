"""No library tells anybody that it is used."""

from __future__ import annotations

import sys

from tests import processes

# Senders are threads and processes that outlive the import: they are heard through the output that all share.
PROGRAM = """
import os, socket
from validate.runtimes._telemetry import refuse_telemetry

def lookup(host, *_, **__):
    os.write(2, f"asked for {host}".encode())
    raise OSError("no network here")
socket.getaddrinfo = lookup
refuse_telemetry()
import openvino
"""


def test_importing_openvino_asks_for_no_host() -> None:
    ended = processes.run([sys.executable, "-c", PROGRAM], check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "asked for" not in ended.stderr
