"""Whether two reports were measured on the same text, token for token; numbers of two texts are never compared.

A report made before token ids were hashed is told by its files' hashes and the numbers of tokens and windows.
"""

from __future__ import annotations

from itertools import zip_longest

from validate.report.schema import Report, TextEntry


class OtherTexts(ValueError):
    """Two reports are of different texts: what is different, and what to do."""

    def __init__(self, difference: str, remedy: str) -> None:
        super().__init__(f"{difference}; {remedy}")
        self.difference, self.remedy = difference, remedy


def check_same_texts(before: Report, after: Report) -> None:
    """Raise OtherTexts where the two were not measured on the same token ids in the same windows."""
    pairs = list(zip_longest(before["texts"], after["texts"]))
    other = [(old, new) for old, new in pairs if old is None or new is None or not _same(old, new)]
    if not other and _hashed(before, after):
        return
    if other:
        old, new = other[0]
        more = f"; {len(other) - 1} more sets differ" if len(other) > 1 else ""
        raise OtherTexts(f"{_words(old)} before, {_words(new)} after{more}", _remedy(old, new, before, after))
    if before["window"] != after["window"]:
        raise OtherTexts(f"windows of {before['window']} tokens before, of {after['window']} after", _AGAIN["window"])


_AGAIN = {word: f"measure both with the same `{word}:`" for word in ("text", "tokens", "window")}
_TOKENIZER = (
    "the two sources make other tokens of the same file (tokenizer, chat template): compare outputs of one source"
)


def _same(old: TextEntry, new: TextEntry) -> bool:
    if "tokens_sha256" in old and "tokens_sha256" in new:
        return old["tokens_sha256"] == new["tokens_sha256"]
    return all(old[word] == new[word] for word in ("sha256", "tokens", "windows"))


def _hashed(before: Report, after: Report) -> bool:
    """Whether both say what their tokens were, by which windows are compared too."""
    return all("tokens_sha256" in text for report in (before, after) for text in report["texts"])


def _words(text: TextEntry | None) -> str:
    if text is None:
        return "no such set"
    digest = text.get("tokens_sha256") or text["sha256"]
    return f"{text['name']} with {text['tokens']} tokens (sha256 {digest[:12]})"


def _remedy(old: TextEntry | None, new: TextEntry | None, before: Report, after: Report) -> str:
    if old is None or new is None or old["sha256"] != new["sha256"]:
        return _AGAIN["text"]
    if before["window"] != after["window"]:
        return _AGAIN["window"]
    return _AGAIN["tokens"] if old["tokens"] != new["tokens"] else _TOKENIZER
