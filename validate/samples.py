"""What every output is asked: hard strings and conversations, all our own. Texts to read are in texts/."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from validate.json_types import Message

# Each line is hard for some tokenizer: it broke a pre-tokenizer pattern, a normalizer or a byte fallback somewhere.
HARD_STRINGS: tuple[str, ...] = (
    # whitespace
    "",
    " ",
    "  ",
    "   three leading, three trailing   ",
    "\n",
    "\n\n",
    "\n\n\n\n text after four newlines",
    "\t",
    "\t\t two tabs",
    " \t \n \t mixed \n\t",
    "\r\n windows \r\n lines \r\n",
    "a\rb carriage return alone",
    "word" + " " * 17 + "seventeen spaces",
    "no-break\u00a0space and\u2003em space",
    "ideographic\u3000space, zero\u200bwidth\u200bspace",
    "\ufeffbyte order mark first",
    "line\u2028separator and paragraph\u2029separator",
    "vertical\x0btab and form\x0cfeed and next\x85line",
    " trailing newline\n",
    "if x:\n    if y:\n        return z\n",
    # numbers and punctuation
    "0 1 12 123 1234 12345 123456789 1234567890123",
    "3.14159 -2.5e-10 1,000,000.00 0x1F 1_000",
    "007 1st 2nd 42nd 5'10\" 50% $9.99 €20 №7",
    "１２３ full-width ４５６",
    "٣٤٥ Arabic-Indic and ५६७ Devanagari digits",
    "½ ⅓ ² ³ ① Ⅷ 百二十三",
    "!!! ??? ... --- ___ *** /// \\\\\\ |||",
    "(((a)))[[[b]]]{{{c}}}<<<d>>>",
    "“curly” ‘quotes’ «guillemets» „low“ 「corner」",
    "a-b–c—d…e·f•g",
    # contractions and case
    "I'm you're he'll she'd we've it's don't o'clock",
    "I'M YOU'RE HE'LL SHE'D WE'VE IT'S DON'T",
    "I’m you’re he’ll with typographic apostrophes",
    "'s 't 're 've 'm 'll 'd alone, and 'tis",
    "camelCase PascalCase snake_case kebab-case SCREAMING_SNAKE iPhone15Pro",
    "ſ long s, K kelvin sign, İstanbul ıstanbul ẞ ß",
    # scripts
    "Ĉu vi parolas Esperanton? Ďakujem, žluťoučký kůň",
    "Съешь же ещё этих мягких французских булок",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία",
    "敏捷的棕色狐狸跳过了懒狗。",
    "いろはにほへと ちりぬるを カタカナ ﾊﾝｶｸ",
    "키스의 고유조건은 입술끼리 만나야 하고",
    "中文English混排123数字，标点。",
    "صِف خَلقَ خَودِ كَمِثلِ الشَمسِ",
    "דג סקרן שט בים מאוכזב ולפתע",
    "left \u202bright to left\u202c left again",
    "ऋषियों को सताने वाले दुष्ट राक्षसों",
    "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า",
    "አማርኛ ქართული հայերեն မြန်မာ",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝒶𝓃𝒹 𐍈 beyond the first plane 𠜎",
    # combining marks: composed and decomposed spell the same text in other bytes
    "café naïve Å",
    "cafe\u0301 nai\u0308ve A\u030a",
    "Z\u0351\u036ba\u0363\u0313l\u0358\u0350g\u0321\u0352o\u0336\u0313",
    "각 \u1100\u1161\u11a8",
    "\u212b angstrom sign, \u2126 ohm sign, ﬁ ligature",
    # emoji
    "😀😃😄 👍🏽 🇪🇺🇯🇵 ✌️ ☎︎",
    "👨‍👩‍👧‍👦 family, 🏳️‍🌈 flag, 🧑🏿‍🚀 astronaut",
    "text😀text 😀text text😀 😀\n😀",
    # code, markup, addresses
    'def f(x: int) -> str:\n\treturn f"{x!r:>10}"  # comment',
    "for (int i=0;i<n;++i){a[i]^=b[i]<<3;}//xor",
    "SELECT * FROM t WHERE a<>b AND c LIKE '%x_y%';",
    '<div class="a">&nbsp;&lt;b&gt;</div><!-- c -->',
    '{"name": "computer_use", "arguments": {"action": "left_click", "coordinate": [512, 384]}}',
    "https://user:pw@example.com:8080/a/b.php?q=1&r=%20#frag",
    "C:\\Windows\\System32\\cmd.exe ~/.ssh/id_rsa ../../etc/passwd",
    "mail@example.org @handle #hashtag $VAR ${VAR} %d %s \\n \\u0041",
    "$$\\int_0^\\infty e^{-x^2}\\,dx=\\frac{\\sqrt{\\pi}}{2}$$",
    "- [ ] todo\n- [x] done\n\n```python\nprint(1)\n```\n| a | b |\n|---|---|",
    # control characters and repeats
    "\x01\x02\x1b[31mred\x1b[0m\x7f",
    "nul\x00byte inside",
    "private use \ue000\uf8ff, not a character \ufffe, replacement \ufffd",
    "a" * 300,
    "=" * 129,
    "ab " * 100,
    "你" * 70,
    "😀" * 40,
    "Llanfairpwllgwyngyllgogerychwyrndrobwllllantysiliogogogoch",
    # things that look like special tokens of some model and may be ones of this
    "<s> </s> <unk> <pad> <bos> <eos> [INST] [/INST] <<SYS>>",
    "<|im_start|>system\nhi<|im_end|>\n<|endoftext|>",
    "a<|im_start|>b <|im_end|> c<|im_end|><|im_end|>",
    "<|im_start |> <|im_startx|> <| im_start|> |im_start|",
    "<|vision_start|><|image_pad|><|vision_end|> <|video_pad|>",
    '<tool_call>\n{"name": "f"}\n</tool_call> <think>\n</think>',
    "▁lower one eighth block ▁▁ and Ġ and Ċ and <0x0A>",
)

_FUNCTION = {
    "name": "computer_use",
    "description": "Use the mouse & keyboard: 'click', \"type\" <text>, wait. Grüße, 世界.",
    "parameters": {
        "type": "object",
        "properties": {
            "action": {"type": "string", "enum": ["left_click", "type", "wait"]},
            "coordinate": {"type": "array", "items": {"type": "integer"}, "minItems": 2},
            "seconds": {"type": "number", "default": 0.5},
        },
        "required": ["action"],
    },
}
TOOL = {"type": "function", "function": _FUNCTION}
_CALL = {"name": "computer_use", "arguments": {"action": "left_click", "coordinate": [10, 20]}}


@dataclass(frozen=True)
class Conversation:
    """What a chat template is asked to render."""

    name: str
    messages: Sequence[Message]
    tools: Sequence[Message] | None = None
    generation_prompt: bool = True

    @property
    def has_image(self) -> bool:
        parts = (part for m in self.messages if isinstance(m.get("content"), list) for part in m["content"])
        return any(part.get("type") == "image" for part in parts)


def _say(role: str, content: object, **more: object) -> Message:
    return {"role": role, "content": content, **more}


_USER, _ANSWER = _say("user", "What is 2 + 2?"), _say("assistant", "4")
_LOOK = _say("user", [{"type": "image"}, {"type": "text", "text": "Click the red button."}])
_CALLED = _say("assistant", "", tool_calls=[{"type": "function", "id": "call00001", "function": _CALL}])
_TWO_CALLS = _say("assistant", "", tool_calls=[*_CALLED["tool_calls"], *_CALLED["tool_calls"]])
_RESULT = _say("tool", "clicked <ok> & done", name="computer_use", tool_call_id="call00001")

CONVERSATIONS: tuple[Conversation, ...] = (
    Conversation("user", [_USER]),
    Conversation("user, no generation prompt", [_USER], generation_prompt=False),
    Conversation("system", [_say("system", "Be brief."), _USER]),
    Conversation("multi-turn", [_USER, _ANSWER, _say("user", "And 3 + 3?"), _say("assistant", "6"), _USER]),
    Conversation("multi-turn, no generation prompt", [_USER, _ANSWER], generation_prompt=False),
    Conversation("unicode and whitespace", [_say("user", "  Grüße 世界 👩‍🚀 \n\n\ttab  "), _ANSWER, _USER]),
    Conversation("markup in the text", [_say("user", "{{ 7 * 7 }} {% x %} <|im_end|> </s> <b>&amp;</b>")]),
    Conversation("empty message", [_say("user", "")]),
    Conversation("thinking", [_USER, _say("assistant", "<think>\nadd them\n</think>\n\n4"), _USER]),
    Conversation("reasoning", [_USER, _say("assistant", "4", reasoning_content="add them"), _USER]),
    Conversation("reasoning and a tool call", [_USER, {**_CALLED, "reasoning_content": "look"}, _RESULT], [TOOL]),
    Conversation("two system messages", [_say("system", "Be brief."), _say("system", "Be kind."), _USER]),
    Conversation("a system message later", [_USER, _ANSWER, _say("system", "Be brief."), _USER]),
    Conversation("tools", [_USER], [TOOL]),
    Conversation("two tools", [_USER], [TOOL, {**TOOL, "function": {**_FUNCTION, "name": "look"}}]),
    Conversation("two tool calls", [_USER, _TWO_CALLS, _RESULT, _RESULT], [TOOL]),
    Conversation("system and tools", [_say("system", "Be brief."), _USER], [TOOL]),
    Conversation("tool call", [_USER, _CALLED], [TOOL], generation_prompt=False),
    Conversation("tool response", [_USER, _CALLED, _RESULT], [TOOL]),
    Conversation("two tool responses", [_USER, _CALLED, _RESULT, _RESULT, _ANSWER, _USER], [TOOL]),
    Conversation("text parts", [_say("user", [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}])]),
    Conversation("image", [_LOOK]),
    Conversation("image and tools", [_say("system", "You see a screen."), _LOOK], [TOOL]),
    Conversation("two images", [_LOOK, _ANSWER, _LOOK]),
)
