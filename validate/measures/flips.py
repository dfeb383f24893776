"""Which multiple-choice items a candidate answers otherwise than the reference."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import batched
