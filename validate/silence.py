"""What libraries say of this machine while they are imported, and nobody asked."""

from __future__ import annotations

import logging


def silence_torchao() -> None:
    """Keep what torchao, which gptqmodel brings along, says of this machine off the screen; nothing here uses it."""
    import torch  # noqa: F401 - sets its loggers up when it is imported

    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)
