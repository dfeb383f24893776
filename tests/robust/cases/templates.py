"""Chat templates: that loop, that grow, that reach for what is not theirs."""

# ruff: noqa: E501 - a template is a line

from __future__ import annotations

from collections.abc import Callable

from tests.robust.cases.base import Case, Place

CALIBRATED = "name: r\nmodel: {path: Tiny}\nstages:\n  imatrix: {use: imatrix, chunks: 2, window: 64}\n"
VALIDATED = (
    "name: r\nmodel: {path: Tiny}\nstages:\n  gguf: {use: gguf, types: [F16]}\nvalidate: {tokens: 128, window: 32}\n"
)
SYSTEM = "popen('touch PWNED').read()"
REACHING = {
    "through a class": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "through globals of a function": "{{ lipsum.__globals__['os']." + SYSTEM + " }}",
    "through cycler": "{{ cycler.__init__.__globals__.os." + SYSTEM + " }}",
    "through joiner": "{{ joiner.__init__.__globals__.os." + SYSTEM + " }}",
    "through namespace": "{{ namespace.__init__.__globals__.os." + SYSTEM + " }}",
    "through raise_exception": "{{ raise_exception.__globals__['sys'].modules['os']." + SYSTEM + " }}",
    "through a filter": "{{ messages|attr('__class__')|attr('__mro__') }}",
    "through format": "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
    "through format_map": "{{ '{a.__class__}'.format_map({'a': messages}) }}",
    "through map": "{{ [messages]|map(attribute='__class__')|list }}",
    "through self": "{{ self.__init__.__globals__ }}",
    "a file by include": "{% include '/etc/passwd' %}",
    "a file by import": "{% import '/etc/passwd' as x %}{{ x }}",
    "a file by extends": "{% extends '/etc/passwd' %}",
}
ENDLESS = {
    "loops within loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}",
    "a macro that calls itself": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "a macro that calls itself twice": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "a power": "{{ 10 ** 10 ** 10 }}",
    "a power of a power": "{{ 9 ** 9 ** 9 ** 9 }}",
    "a text ten billion times": "{{ 'a' * 10000000000 }}",
    "a text a billion times": "{{ ('a' * 1000000000)|length }}",
    "a text that doubles": "{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
    "a list that doubles": "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "a width": "{{ '%09999999999d' % 1 }}",
    "a width of format": "{{ '{:>9999999999}'.format(1) }}",
    "a centre": "{{ 'a'|center(10000000000) }}",
    "an indent": "{{ ('a\n' * 100000)|indent(1000000) }}",
    "a replacement": "{{ ('a' * 100000)|replace('a', 'b' * 100000) }}",
    "a range": "{{ range(1000000000000)|list }}",
    "an output without end": "{% for a in range(99999) %}{% for b in range(99999) %}xxxxxxxxxxxxxxxx{% endfor %}{% endfor %}",
    "a product of lists": "{% for a in messages * 100000000 %}{% for b in messages * 100000000 %}{% endfor %}{% endfor %}",
    "lipsum": "{{ lipsum(n=100000000) }}",
}
BROKEN = {
    "no syntax": "{% for %}",
    "10,000 ifs": "{% if true %}" * 10_000 + "{% endif %}" * 10_000,
    "10,000 brackets": "{{ " + "(" * 10_000 + "1" + ")" * 10_000 + " }}",
    "100,000 additions": "{{ " + "1+" * 100_000 + "1 }}",
    "20 MB": "x" * (20 << 20),
    "an error in every conversation": "{{ raise_exception('no \x1b[2J') }}",
    "nothing": "",
}


def _template(text: str, recipe: str) -> Callable[[Place], None]:
    def make(place: Place) -> None:
        place.recipe(recipe)
        said = text.replace("PWNED", str(place.witness))
        place.edit("tokenizer_config.json", lambda config: config.update(chat_template=said))

    return make


CASES = [
    *(
        Case(f"template {kind}", name, _template(text, CALIBRATED), harmless=True)
        for kind, texts in (("reaching", REACHING), ("endless", ENDLESS), ("broken", BROKEN))
        for name, text in texts.items()
    ),
    *(
        Case("template, validated", name, _template(text, VALIDATED), harmless=True)
        for texts in (REACHING, ENDLESS, BROKEN)
        for name, text in list(texts.items())[1::4]
    ),
]
