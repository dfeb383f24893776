"""Fixtures that many tests share."""

from __future__ import annotations

import os
import tempfile

# Before anything imports torch or numpy: two test processes share two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# What tests take says nothing of what users wait for, and what was proven earlier is proven again.
os.environ["CONVERT_CACHE_HOME"] = tempfile.mkdtemp(prefix="convert-tests-")
