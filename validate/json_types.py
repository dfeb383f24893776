"""Types of what was read from JSON. Imports nothing of ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

JsonObject: TypeAlias = Mapping[str, Any]
"""An object of a file whose words somebody else chose."""

Message: TypeAlias = JsonObject
"""A chat message, or the description of a tool: a template reads what it likes of it."""
