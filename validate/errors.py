"""What goes wrong with a runtime, in kinds that a comparison tells apart. Imports nothing of ours.

RuntimeFailure            the runtime could not load or run the model
    Unsupported           it has no such ability
        NotOnThisMachine  this machine has no device, or no kernels, for it
    Endless               what a stranger wrote takes more time or memory than it may
Killed                    somebody else ended it
"""

from __future__ import annotations


class RuntimeFailure(Exception):
    """A runtime could not load or run a model; the message is its own words, shortened."""


class Killed(Exception):
    """Somebody else ended the runtime (out of memory, most often): it says nothing about the model."""


class Unsupported(RuntimeFailure):
    """This runtime, or this session, has no such ability; not the model's fault."""


class Endless(RuntimeFailure):
    """What a stranger wrote, a template or an expression, takes more time or memory than it may."""


class NotOnThisMachine(Unsupported):
    """The runtime is installed, and this machine lacks the device or the kernels to run the model on."""
