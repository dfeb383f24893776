"""Trying again what a server or a network refused for now: after as long as it says, else longer each time."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from typing import TypeVar

from convert.progress import Progress

T = TypeVar("T")
ATTEMPTS = 7
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 1.0, 300.0
PASSING = (408, 425, 429, 500, 502, 503, 504)
SECRET = re.compile(r"\b(hf_\w{4,}|Bearer\s+\S+|AKIA\w{8,}|[?&](?:X-Amz-\w+|sig|token)=[^&\s]+)")


def retrying(what: str, attempt: Callable[[], T], progress: Progress, passing: Callable[[Exception], bool]) -> T:
    """What `attempt` gives. Raises its error at once where that will not pass, else after ATTEMPTS times."""
    for number in range(1, ATTEMPTS + 1):
        try:
            return attempt()
        except Exception as error:
            if number == ATTEMPTS or not passing(error):
                raise
            wait = wait_seconds(error, number)
            progress.warn(f"{what}: {reason(error)}; trying again in {wait:.0f} s")
            time.sleep(wait)
    raise AssertionError("unreachable")


def wait_seconds(error: Exception, number: int) -> float:
    """As the server asks for, else twice as long each time, a little more or less so that not all come at once."""
    headers = response_of(error)[1]
    asked = headers.get("retry-after", "")
    if asked.isdigit():
        return min(float(asked), LONGEST_WAIT_SECONDS)
    return float(min(FIRST_WAIT_SECONDS * 2 ** (number - 1), LONGEST_WAIT_SECONDS) * random.uniform(0.8, 1.2))


def response_of(error: BaseException | None) -> tuple[int | None, dict[str, str]]:
    """Status and headers of the answer behind an error, or behind what it was raised from; None where there is none."""
    while error is not None:
        response = vars(error).get("response")
        if isinstance(response, dict):  # botocore's
            words = response.get("ResponseMetadata", {})
            headers = {str(k).lower(): str(v) for k, v in words.get("HTTPHeaders", {}).items()}
            return words.get("HTTPStatusCode"), headers
        if response is not None:
            return int(response.status_code), {str(k).lower(): str(v) for k, v in response.headers.items()}
        error = error.__cause__ or error.__context__
    return None, {}


def reason(error: BaseException) -> str:
    """The first line of an error, and of what it was raised from, without a secret in it."""
    words = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    cause = error.__cause__
    if cause is not None and type(cause) is not type(error):
        words += f" ({type(cause).__name__}: {str(cause).splitlines()[0] if str(cause) else ''})"
    return SECRET.sub("***", words)[:400].strip(": ")
