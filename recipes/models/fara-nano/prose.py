"""Text to read: conversations, logs, notes and small stories, all of it from one seed."""

import json
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import words

Message = dict[str, Any]

SYSTEM = "You are Fara, a small assistant that uses a computer."

TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "computer_use",
        "description": "Use the mouse and the keyboard of a computer and look at its screen.",
        "parameters": {
            "type": "object",
            "properties": {
                "action": {"type": "string", "enum": ["left_click", "type", "key", "scroll", "visit_url", "terminate"]},
                "coordinate": {"type": "array", "description": "x and y in pixels of the screenshot"},
                "text": {"type": "string"},
            },
            "required": ["action"],
        },
    },
}


def tool_call(**arguments: Any) -> str:
    """One `computer_use` call as the assistant writes it."""
    return "<tool_call>\n" + json.dumps({"name": "computer_use", "arguments": arguments}) + "\n</tool_call>"


def noun_phrase(rng: Random) -> str:
    """A noun with an article that agrees, and mostly an adjective."""
    phrase = rng.choice(words.NOUNS)
    if rng.random() < 0.6:
        phrase = f"{rng.choice(words.ADJECTIVES)} {phrase}"
    article = rng.choice(("the", "the", "a", "every", "that"))
    if article == "a" and phrase[0] in "aeiou":
        article = "an"
    return f"{article} {phrase}"


def sentence(rng: Random) -> str:
    """One sentence of a story."""
    who = rng.choice(words.NAMES) if rng.random() < 0.5 else noun_phrase(rng)
    what = f"{rng.choice(words.PAST_VERBS)} {noun_phrase(rng)}"
    tail = rng.choice(
        (
            "",
            f" {rng.choice(words.PREPOSITIONS)} {noun_phrase(rng)}",
            f" in {rng.choice(words.PLACES)}",
            f" {rng.choice(words.ADVERBS)}",
            f" and {rng.choice(words.PAST_VERBS)} {noun_phrase(rng)}",
            f", but {rng.choice(words.NAMES)} {rng.choice(words.PAST_VERBS)} {noun_phrase(rng)}",
            f" because {noun_phrase(rng)} was {rng.choice(words.ADJECTIVES)}",
        )
    )
    text = f"{who} {what}{tail}"
    return text[0].upper() + text[1:] + rng.choice((".", ".", ".", ".", "!", "…"))


def story(rng: Random) -> str:
    """A titled story of a few short paragraphs."""
    title = f"The {rng.choice(words.ADJECTIVES).title()} {rng.choice(words.NOUNS).title()}"
    paragraphs = [" ".join(sentence(rng) for _ in range(rng.randint(2, 6))) for _ in range(rng.randint(1, 3))]
    return "\n\n".join([f"# {title}", *paragraphs])


def _user(rng: Random) -> str:
    return rng.choice(words.NAMES).lower()


def _address(rng: Random) -> str:
    return f"10.{rng.randint(0, 9)}.{rng.randint(0, 99)}.{rng.randint(1, 254)}"


def _log_message(rng: Random) -> str:
    path = f"/{rng.choice(words.NOUNS)}/{rng.choice(words.NOUNS)}"
    choices: tuple[Callable[[], str], ...] = (
        lambda: (
            f"GET {path}?id={rng.randint(1, 9999)} {rng.choice((200, 200, 200, 304, 404, 500))} {rng.randint(1, 900)}ms"
        ),
        lambda: f"POST {path} {rng.choice((201, 202, 400, 403))} {rng.randint(5, 2000)}ms user={_user(rng)}",
        lambda: f"cache hit ratio {rng.random():.2f} over {rng.randint(100, 9000)} requests",
        lambda: f"failed to open {path}.{rng.choice(('json', 'txt', 'png', 'db'))}: {rng.choice(words.FAILURES)}",
        lambda: f"worker {rng.randint(0, 15)} finished job {rng.getrandbits(32):08x} in {rng.random() * 60:.1f} s",
        lambda: f"connected to {rng.choice(words.SERVICES)}@{_address(rng)}:8080",
        lambda: f"retry {rng.randint(1, 5)} of 5 after {rng.choice(words.FAILURES)}",
        lambda: f"loaded {rng.randint(1, 500)} {rng.choice(words.NOUNS)} records from {rng.choice(words.SITES)}",
    )
    return rng.choice(choices)()


def log(rng: Random) -> str:
    """A stretch of one machine's log: the clock only moves forward."""
    day, second = f"2026-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}", rng.randint(0, 80000)
    services = rng.sample(words.SERVICES, 3)
    lines = []
    for _ in range(rng.randint(5, 14)):
        second += rng.randint(0, 30)
        clock = f"{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}"
        message = _log_message(rng)
        level = (
            "ERROR" if "failed" in message else "WARN" if "retry" in message else rng.choice(("INFO", "INFO", "DEBUG"))
        )
        lines.append(f"{day} {clock} {level} [{rng.choice(services)}] {message}")
    return "\n".join(lines)


def note(rng: Random) -> str:
    """A list, a small table or a JSON record, as people leave them lying about."""
    kind = rng.randrange(4)
    if kind == 0:
        items = "\n".join(f"- [{rng.choice(' x')}] {sentence(rng)[:-1]}" for _ in range(rng.randint(3, 6)))
        return f"## Things to do in {rng.choice(words.PLACES)}\n{items}"
    if kind == 1:
        record = {
            "id": rng.randint(1, 9999),
            "name": rng.choice(words.NAMES),
            "city": rng.choice(words.PLACES),
            "tags": rng.sample(words.NOUNS, rng.randint(1, 4)),
            "active": rng.random() < 0.5,
        }
        return json.dumps(record, ensure_ascii=False, indent=rng.choice((None, 2)))
    if kind == 2:
        rows = "\n".join(
            f"| {rng.choice(words.NOUNS)} | {rng.randint(1, 40)} | {rng.randint(1, 99)}.{rng.randint(0, 99):02d} |"
            for _ in range(rng.randint(3, 6))
        )
        return f"| item | count | price |\n|---|---|---|\n{rows}"
    name, thing = rng.choice(words.NOUNS), rng.choice(words.NOUNS)
    body = f"    {thing} = {name} * {rng.randint(2, 9)}\n    return {thing} + {rng.randint(1, 99)}"
    return f"def {name}_{thing}({name}: int) -> int:\n{body}"


def _small_talk(rng: Random) -> tuple[str, str]:
    noun, name, place = rng.choice(words.NOUNS), rng.choice(words.NAMES), rng.choice(words.PLACES)
    left, right = rng.randint(0, 20), rng.randint(0, 20)
    return rng.choice(
        (
            (f"Where is the {noun}?", f"The {noun} is {rng.choice(words.PREPOSITIONS)} the {rng.choice(words.NOUNS)}."),
            (f"What is {left} + {right}?", f"{left} + {right} = {left + right}"),
            (f"Tell me about {place}.", " ".join(sentence(rng) for _ in range(3))),
            (f"Who wrote to {name}?", f"{rng.choice(words.NAMES)} wrote to {name} from {place}."),
            (f"Give me three words like “{noun}”.", ", ".join(rng.sample(words.NOUNS, 3)) + "."),
            (
                f"Is the {noun} {rng.choice(words.ADJECTIVES)}?",
                rng.choice(("Yes, it is.", "No, it isn't.", "I don't know.")),
            ),
            ("Thank you!", rng.choice(("You're welcome! 😊", "Any time.", "Glad to help."))),
            (f"Write a sentence with {name} in it.", f"{name} {rng.choice(words.PAST_VERBS)} {noun_phrase(rng)}."),
        )
    )


def _errand(rng: Random) -> tuple[str, str, str, str]:
    """A request, the call it leads to, what the tool says, and the closing words."""
    site, noun = rng.choice(words.SITES), rng.choice(words.NOUNS)
    return rng.choice(
        (
            (
                f"Open {site}.",
                tool_call(action="visit_url", text=f"https://{site}"),
                f"Loaded {site}.",
                f"{site} is open now.",
            ),
            (f"Type “{noun}”.", tool_call(action="type", text=noun), "Typed.", f"I typed {noun}."),
            ("Scroll down a bit.", tool_call(action="scroll", text="down"), "Scrolled.", "Done."),
            ("Press enter.", tool_call(action="key", text="Enter"), "Pressed Enter.", "I pressed Enter."),
            ("Stop here.", tool_call(action="terminate", text="success"), "Stopped.", "I stopped."),
        )
    )


def conversation(rng: Random) -> list[Message]:
    """Messages of a short chat, with or without a system message and tool calls."""
    messages: list[Message] = []
    if rng.random() < 0.5:
        messages.append({"role": "system", "content": f"{SYSTEM} You live in {rng.choice(words.PLACES)}."})
    for _ in range(rng.randint(1, 4)):
        if rng.random() < 0.4:
            request, call, result, closing = _errand(rng)
            messages += [
                {"role": "user", "content": request},
                {"role": "assistant", "content": call},
                {"role": "tool", "content": result},
                {"role": "assistant", "content": closing},
            ]
        else:
            question, answer = _small_talk(rng)
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return messages


def documents(seed: int, render: Callable[..., str]) -> Iterator[str]:
    """Endless documents; `render(messages, tools=...)` turns a conversation into text with the chat template."""
    rng = Random(seed)
    while True:
        kind = rng.random()
        if kind < 0.4:
            yield render(conversation(rng), tools=[TOOL] if rng.random() < 0.15 else None)
        else:
            yield (story, log, note)[0 if kind < 0.65 else 1 if kind < 0.85 else 2](rng)
