"""The type of what chat templates are given. Imports nothing of ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

Message: TypeAlias = Mapping[str, Any]
"""A chat message, or the description of a tool, as JSON has it: a template reads what it likes of it."""
