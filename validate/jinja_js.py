"""Chat templates as a browser renders them: by transformers.js' engine, the npm package @huggingface/jinja, in node.

npm install @huggingface/jinja        in any folder; that folder is what JinjaJs is given
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from validate.errors import RuntimeFailure, Unsupported
from validate.samples import Conversation

PACKAGE = Path("node_modules/@huggingface/jinja/package.json")
FORMAT = "onnx"  # what transformers.js runs
SECONDS = 60
WORDS = 300  # characters of an error worth quoting

# What transformers.js gives a template (tokenization_utils.js, apply_chat_template).
_SCRIPT = """
import { readFileSync } from "node:fs";
import { Template } from "@huggingface/jinja";
const asked = JSON.parse(readFileSync(0, "utf8"));
const answers = asked.talks.map(({ template, ...given }) => {
  try { return { text: new Template(asked.templates[template]).render({ ...asked.variables, ...given }) }; }
  catch (error) { return { refused: String(error.message ?? error) }; }
});
process.stdout.write(JSON.stringify(answers));
"""


@dataclass(frozen=True)
class JinjaJs:
    """The engine in a folder, and its version."""

    folder: Path
    version: str

    def render(
        self, templates: Mapping[str, str], talks: Sequence[Conversation], variables: Mapping[str, str]
    ) -> list[str | RuntimeFailure]:
        """Each conversation's text, or the words with which the template or the engine refused it.

        `variables` are the texts of special tokens. Raises Unsupported where node does not answer.
        """
        questions = [_asked(talk, templates) for talk in talks]
        asked = {"templates": dict(templates), "variables": dict(variables), "talks": questions}
        command = [_node(), "--input-type=module", "--eval", _SCRIPT]
        try:
            ended = subprocess.run(
                command,
                input=json.dumps(asked),
                cwd=self.folder,
                capture_output=True,
                text=True,
                timeout=SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Unsupported(f"node could not be asked: {error}") from error
        if ended.returncode:
            raise Unsupported(f"node ended with exit code {ended.returncode}: {ended.stderr.strip()[-WORDS:]}")
        return [a["text"] if "text" in a else RuntimeFailure(a["refused"][:WORDS]) for a in json.loads(ended.stdout)]


def find(folder: Path) -> JinjaJs:
    """The engine that was installed in a folder. Raises Unsupported, with what to do, where it or node is lacking."""
    _node()
    path = folder / PACKAGE
    try:
        version = json.loads(path.read_text(encoding="utf-8"))["version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Unsupported(f"{folder} has no @huggingface/jinja: run `npm install @huggingface/jinja` there") from error
    return JinjaJs(folder, str(version))


def _node() -> str:
    found = shutil.which("node")
    if found is None:
        raise Unsupported("there is no `node` on the PATH: install Node.js, or leave out `jinja_js`")
    return found


def _asked(talk: Conversation, templates: Mapping[str, str]) -> dict[str, object]:
    name = "tool_use" if talk.tools and "tool_use" in templates else "default"
    tools = {"tools": talk.tools} if talk.tools else {}
    given = {"messages": talk.messages, "add_generation_prompt": talk.generation_prompt, **tools}
    return {"template": name, **given}
