"""Types of what was read from JSON, or goes into it. Imports nothing of ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

JsonObject: TypeAlias = Mapping[str, Any]
"""An object of a file whose words somebody else chose: config.json, a tokenizer, a model card."""

JsonDict: TypeAlias = dict[str, Any]
"""The same, made here: whoever asked for it may add to it."""
