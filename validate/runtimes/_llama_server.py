"""llama.cpp's server, asked for one thing: what its own template engine makes of a conversation.

The C API only knows a list of template families (llama_chat_apply_template); the engine that reads the file's template
is reachable through the server in the same library, on a port of the loopback interface that exists for as long as the
session and answers only to a random key.
"""

from __future__ import annotations

import json
import re
import secrets
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from validate.errors import RuntimeFailure, Unsupported
from validate.json_types import Message
from validate.runtimes.base import IMAGE_MARK

RENDER_SECONDS = 30
_MARKER = re.compile(r"<__media_\w*__>")  # what the server puts in the place of an image, another word in each
_PIXEL = (  # a black one, as PNG
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGNgYGAAAAAEAAH2FzhVAAAAAElFTkSuQmCC"
)


class LlamaServer:
    """A server on a GGUF file, which ends with this object. Raises Unsupported where it does not start."""

    def __init__(self, model: Path, projector: Path | None = None) -> None:
        import xllamacpp

        self._key = secrets.token_hex(16)
        params = xllamacpp.CommonParams()
        params.model.path = str(model)
        if projector is not None:
            params.mmproj.path, params.mmproj_use_gpu = str(projector), False
        params.hostnames, params.port, params.api_keys = ["127.0.0.1"], 0, [self._key]
        params.n_ctx, params.n_parallel, params.warmup, params.ui = 256, 1, False, False
        params.no_extra_bufts = True  # a repacked copy of the weights would be for nothing
        params.use_jinja = True
        try:
            self._server = xllamacpp.Server(params)
        except Exception as error:
            raise Unsupported(f"llama.cpp's server did not start: {error}") from error

    def render(self, messages: Sequence[Message], tools: Sequence[Message] | None, generation_prompt: bool) -> str:
        """The conversation as it would be sent to the model, IMAGE_MARK in the place of its own word for an image."""
        body = {
            "messages": list(map(_with_pixels, messages)),
            "add_generation_prompt": generation_prompt,
            **({"tools": tools} if tools else {}),
        }
        request = urllib.request.Request(
            f"{self._server.listening_address}/apply-template",
            json.dumps(body).encode(),
            {"Content-Type": "application/json", "Authorization": f"Bearer {self._key}"},
        )
        try:
            with urllib.request.urlopen(request, timeout=RENDER_SECONDS) as answer:
                return _MARKER.sub(IMAGE_MARK, str(json.load(answer)["prompt"]))
        except urllib.error.HTTPError as error:
            raise RuntimeFailure(f"llama.cpp's server refused the conversation: {error.read().decode()}") from error
        except (OSError, ValueError, KeyError) as error:
            raise Unsupported(f"llama.cpp's server could not be asked: {error}") from error


def _with_pixels(message: Message) -> Message:
    """A message whose images are such as the server takes: it wants to see one, and looks at no pixel here."""
    content = message.get("content")
    if not isinstance(content, list | tuple):
        return message
    image = {"type": "image_url", "image_url": {"url": _PIXEL}}
    return {**message, "content": [image if part.get("type") == "image" else part for part in content]}
