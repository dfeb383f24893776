"""What travels beside the weights: tokenizer, chat templates, processors, generation config, card. Found and read here.

Everything comes from strangers: a file is read only when it is a regular file inside the folder and within its size
limit; JSON that is broken, too deep or of the wrong type is one InputError that names the file. A model card is the
exception: it is prose with a header, so what is wrong in it is left out and listed in `Companions.notes`.
"""

from __future__ import annotations

import fnmatch
import json
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TypeGuard

from convert.bundle import Bundle, Role
from convert.collection import without_collection
from convert.errors import InputError
from convert.json_types import JsonDict, JsonObject
from convert.source.added_tokens import Added, Said, settle
from convert.source.card import read_card
from convert.source.checkpoint import as_read, mended
from convert.source.untrusted import check_link, decoded, not_json, read_bytes

ROLES: Mapping[str, Role] = MappingProxyType(
    {
        "config.json": Role.CONFIG,
        "tokenizer.json": Role.TOKENIZER,
        "tokenizer_config.json": Role.TOKENIZER,
        "tokenizer.model": Role.TOKENIZER,
        "vocab.json": Role.TOKENIZER,
        "merges.txt": Role.TOKENIZER,
        "vocab.txt": Role.TOKENIZER,
        "spiece.model": Role.TOKENIZER,
        "sentencepiece.bpe.model": Role.TOKENIZER,
        "tekken.json": Role.TOKENIZER,
        "*.tiktoken": Role.TOKENIZER,
        "tiktoken.model": Role.TOKENIZER,
        "rwkv_vocab_*.txt": Role.TOKENIZER,
        "tokenizer.jsonl": Role.TOKENIZER,
        "special_tokens_map.json": Role.TOKENIZER,
        "added_tokens.json": Role.TOKENIZER,
        "chat_template.jinja": Role.CHAT_TEMPLATE,
        "chat_template.json": Role.CHAT_TEMPLATE,
        "additional_chat_templates/*.jinja": Role.CHAT_TEMPLATE,
        "preprocessor_config.json": Role.PREPROCESSOR,
        "processor_config.json": Role.PREPROCESSOR,
        "video_preprocessor_config.json": Role.PREPROCESSOR,
        "generation_config.json": Role.GENERATION,
        "modules.json": Role.SENTENCES,
        "[0-9]_Pooling/config.json": Role.SENTENCES,
        "[0-9]_Dense/config.json": Role.SENTENCES,
        "[0-9]_Dense/model.safetensors": Role.SENTENCES,
        "README.md": Role.CARD,
        "LICENSE*": Role.CARD,
        "NOTICE*": Role.CARD,
    }
)
"""File name or pattern, relative to the model's folder -> what the file is to the model."""

SENTENCEPIECE = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
"""Names a sentencepiece model goes by, the first that is there."""

CONFIG_BYTES = 16 << 20
TOKENIZER_BYTES = 256 << 20  # the largest in use (262k tokens, 2.6 times as many merges) are about 35 MB

SPECIAL_KINDS = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
"""The special tokens a tokenizer config names as `<kind>_token` and a model config as `<kind>_token_id`."""


def collect(folder: Path, inside: Path | None = None) -> dict[Role, tuple[Path, ...]]:
    """The companions in `folder` by role, each list sorted; what is not in ROLES is not looked at.

    `inside` is how far any symbolic link may lead: `folder` when None; for a snapshot in the hub's cache, whose files
    are links to ../../blobs, the cache folder of that repository. One that the user made may lead anywhere.

    Raises InputError for a companion that is a stranger's link out of `inside`, a folder, a pipe, a link to nothing.
    """
    home = (inside or folder).resolve()
    found: dict[Role, list[Path]] = {}
    for pattern, role in ROLES.items():
        subfolder, _, name = pattern.rpartition("/")
        for path in (path for place in _folders(folder, subfolder) for path in _matches(place, name)):
            _check_regular(path, home, folder)
            found.setdefault(role, []).append(path)
    return {role: tuple(sorted(paths)) for role, paths in found.items()}


def _folders(folder: Path, pattern: str) -> Iterable[Path]:
    """Where files of a pattern of ROLES lie: the folder itself, or those in it that are called so."""
    if not pattern:
        return [folder]
    if "[" not in pattern:
        return [folder / pattern]
    return [path for path in folder.iterdir() if fnmatch.fnmatchcase(path.name, pattern) and path.is_dir()]


def _matches(folder: Path, pattern: str) -> Iterable[Path]:
    if "*" not in pattern:
        path = folder / pattern
        return [path] if path.exists() or path.is_symlink() else []
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if fnmatch.fnmatchcase(path.name, pattern) and not path.is_dir()]


def _check_regular(path: Path, home: Path, folder: Path) -> None:
    try:
        target = path.resolve(strict=True)
        regular = stat.S_ISREG(target.stat().st_mode)
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
        raise InputError(str(path), f"a link to a file that is not there ({error})", "a file") from error
    if not target.is_relative_to(home):
        check_link(path, folder, target)
    if not regular:
        raise InputError(str(path), "not a regular file", "a file")


@dataclass(frozen=True)
class Companions:
    """The companions of one model, parsed. A file that does not exist is an empty mapping, or None."""

    config: JsonObject
    tokenizer_config: JsonObject  # with special_tokens_map.json merged in where transformers merges it
    chat_templates: Mapping[str, str]  # name -> Jinja source; "default" first where there is one
    generation: JsonObject
    preprocessor: JsonObject  # processor_config.json's image_processor where there is no older file
    sentencepiece: Path | None
    card: JsonObject  # the YAML header of README.md, as it is: values may be of any type
    files: Mapping[str, Path] = field(default_factory=dict)  # file name -> where it lies
    notes: tuple[str, ...] = ()  # what was left out, and why; one line each

    @cached_property
    def tokenizer_json(self) -> JsonObject | None:
        """tokenizer.json, parsed when it is first asked for: with a large vocabulary that is most of the reading.

        Raises InputError as `read_companions` does.
        """
        return read_json(self.files["tokenizer.json"], TOKENIZER_BYTES) if "tokenizer.json" in self.files else None

    @property
    def text_config(self) -> JsonObject:
        """The part of config.json that describes the text model: `text_config` laid over the whole."""
        inner = self.config.get("text_config")
        return {**self.config, **inner} if isinstance(inner, Mapping) else self.config

    @property
    def added_tokens(self) -> Mapping[int, JsonObject]:
        """Id -> {content, special, lstrip, rstrip, normalized} of every added token, in order of id.

        tokenizer.json and tokenizer_config.json's added_tokens_decoder each may know tokens the other does not; the ids
        are those that the tokenizer gives (see convert.source.added_tokens). added_tokens.json is read where neither
        has any. Raises InputError for a token whose id the libraries do not agree on.
        """
        return self._settled.tokens

    @property
    def added_token_notes(self) -> tuple[str, ...]:
        """A line about each added token that has another id than its file says."""
        return self._settled.notes

    @cached_property
    def _settled(self) -> Added:
        return _added(self)

    @cached_property
    def token_ids(self) -> Mapping[str, int]:
        """Token text -> id: the vocabulary of tokenizer.json or vocab.json with the added tokens.

        Empty of ordinary tokens where only a sentencepiece model exists: that one is read by the vocabulary.
        Raises InputError for an id that is no number.
        """
        name = "vocab.json" if self.tokenizer_json is None else "tokenizer.json"
        vocabulary: object = None
        if self.tokenizer_json is not None:
            vocabulary = _mapping(self.tokenizer_json.get("model")).get("vocab")
        elif name in self.files:
            vocabulary = read_json(self.files[name], TOKENIZER_BYTES)
        ids = dict(_mapping(vocabulary))
        if set(map(type, ids.values())) != {int} or not 0 <= min(ids.values()) <= max(ids.values()) < 2**31:
            for text, number in ids.items():  # which one it is
                if not _is_id(number):
                    raise InputError(str(self.files.get(name, name)), f"token {text!r} has the id {str(number)[:40]!r}")
        return ids | {str(entry["content"]): number for number, entry in self.added_tokens.items()}

    @cached_property
    def special_ids(self) -> Mapping[str, int]:
        """Kind (bos, eos, unk, sep, pad, cls, mask) -> token id, for those the model has.

        The tokenizer's word first (`eos_token`, looked up in the vocabulary), then config.json's `eos_token_id`, its
        text_config's, and generation_config.json's; of a list, its first.
        """
        ids: dict[str, int] = {}
        for kind in SPECIAL_KINDS:
            named = self.token_ids.get(token_text(self.tokenizer_config.get(f"{kind}_token")) or "")
            candidates = [named]
            for config in (self.config, self.text_config, self.generation):
                candidates += _ids(config.get(f"{kind}_token_id"))[:1]
            number = next((n for n in candidates if n is not None), None)
            if number is not None:
                ids[kind] = number
        return ids

    @cached_property
    def end_ids(self) -> tuple[int, ...]:
        """Every token id that ends a generation, the tokenizer's EOS first, without repetition.

        generation_config.json may list several (`eos_token_id: [151645, 151643]`); where it says nothing, config.json,
        and of that the whole before its text_config, as transformers makes a generation config of it.
        """
        first = [self.special_ids["eos"]] if "eos" in self.special_ids else []
        said = (config.get("eos_token_id") for config in (self.generation, self.config, self.text_config))
        listed = next((ids for ids in map(_ids, said) if ids), [])
        return tuple(dict.fromkeys([*first, *listed]))


def read_companions(bundle: Bundle, *, tokenizer: bool = True) -> Companions:
    """The companions of `bundle`, parsed; without `tokenizer`, tokenizer.json not before it is asked for.

    Raises InputError, naming file and line, for JSON that is broken, of the wrong type, too large or too deep.
    """
    files = _files(bundle)
    card, card_notes = read_card(files.get("README.md"))
    templates, template_notes = _chat_templates(files)
    companions = Companions(
        config=_config(files) if bundle.pending is None else bundle.pending.config,
        tokenizer_config=_tokenizer_config(files),
        chat_templates=templates,
        generation=_read(files, "generation_config.json"),
        preprocessor=_preprocessor(files),
        sentencepiece=next((files[name] for name in SENTENCEPIECE if name in files), None),
        card=card,
        files=files,
        notes=(*template_notes, *card_notes),
    )
    if tokenizer:
        _ = companions.tokenizer_json  # broken, it is no tokenizer, whoever reads it
    return companions


def _files(bundle: Bundle) -> dict[str, Path]:
    """The name of every companion, as ROLES spells it, -> its path."""
    files: dict[str, Path] = {}
    for role, artifact in bundle.artifacts():
        if role not in set(ROLES.values()):
            continue
        folder = artifact.path.parent.name
        name = artifact.path.name
        inner = folder == "additional_chat_templates" or (role is Role.SENTENCES and name != "modules.json")
        files[f"{folder}/{name}" if inner else name] = artifact.path
    return files


def read_text(path: Path, limit: int = CONFIG_BYTES) -> str:
    """The text of a file of at most `limit` bytes. Raises InputError."""
    return decoded(str(path), read_bytes(path, limit))


def read_json(path: Path, limit: int = CONFIG_BYTES) -> JsonDict:
    """The JSON object in `path`, at most `limit` bytes. Raises InputError with the line of what is wrong."""
    text = read_text(path, limit)
    try:
        with without_collection():
            value = json.loads(text)
    except json.JSONDecodeError as error:
        raise not_json(str(path), error) from error
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits; brackets without end
        raise InputError(str(path), f"not usable JSON ({type(error).__name__})") from error
    if not isinstance(value, dict):
        raise InputError(str(path), f"a JSON {type(value).__name__}", "an object")
    if _half_a_pair(text):
        try:  # half of a surrogate pair is legal JSON and no text: nothing can write it down again
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise InputError(
                str(path), "a string with half of a surrogate pair (\\ud800-\\udfff)", "Unicode"
            ) from error
    return value


_ESCAPES = re.compile(r"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|(u[dD][89a-fA-F])|.)", re.DOTALL)


def _half_a_pair(text: str) -> bool:
    """Whether JSON text spells a surrogate that is not one of a pair; `\\\\ud` is a backslash before letters."""
    return any(escape[1] for escape in _ESCAPES.finditer(text))


def token_text(value: object) -> str | None:
    """The text of a token as configs write it: "</s>", or {"content": "</s>", ...}; None for anything else."""
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) and value else None


def _read(files: Mapping[str, Path], name: str) -> JsonDict:
    return read_json(files[name]) if name in files else {}


def _config(files: Mapping[str, Path]) -> JsonDict:
    """config.json, without what the weights beside it disprove, as tensors are read from there."""
    found = _read(files, "config.json")
    return as_read(mended(files["config.json"].parent, found)) if found else found


def _tokenizer_config(files: Mapping[str, Path]) -> JsonDict:
    """tokenizer_config.json; special_tokens_map.json over it, unless added_tokens_decoder shows it is the newer file.

    That is transformers' rule (tokenization_utils_base.py, _from_pretrained).
    """
    config = _read(files, "tokenizer_config.json")
    if "added_tokens_decoder" not in config:
        config.update(_read(files, "special_tokens_map.json"))
    return config


def _preprocessor(files: Mapping[str, Path]) -> JsonObject:
    """What happens to images; transformers 5 keeps it inside processor_config.json, under image_processor."""
    if "preprocessor_config.json" in files:
        return _read(files, "preprocessor_config.json")
    return _mapping(_read(files, "processor_config.json").get("image_processor"))


def _chat_templates(files: Mapping[str, Path]) -> tuple[dict[str, str], list[str]]:
    """Name -> template, "default" first, and notes on what was passed over.

    The tokenizer's templates, by transformers' rule: .jinja files replace what tokenizer_config.json says. A model
    whose tokenizer has none may keep one for its processor: in processor_config.json or the older chat_template.json.
    """
    config, processor = _read(files, "tokenizer_config.json"), _read(files, "processor_config.json")
    legacy = _read(files, "chat_template.json")
    sources = {
        ".jinja files": _jinja_files(files),
        "tokenizer_config.json": _named(config.get("chat_template"), files.get("tokenizer_config.json")),
        "processor_config.json": _named(processor.get("chat_template"), files.get("processor_config.json")),
        "chat_template.json": _named(legacy.get("chat_template"), files.get("chat_template.json")),
    }
    present = {where: templates for where, templates in sources.items() if templates}
    if not present:
        return {}, []
    used, *others = present
    chosen = present[used]
    notes = [
        f"chat template of {other} differs from {used}; used {used}" for other in others if present[other] != chosen
    ]
    return {name: chosen[name] for name in sorted(chosen, key=lambda name: (name != "default", name))}, notes


def _jinja_files(files: Mapping[str, Path]) -> dict[str, str]:
    templates = {}
    for name, path in files.items():
        if name == "chat_template.jinja":
            templates["default"] = _unix_lines(read_text(path))
        elif name.startswith("additional_chat_templates/"):
            templates[path.stem] = _unix_lines(read_text(path))
    return templates


def _unix_lines(text: str) -> str:
    """The text with the ends of lines that Python gives whoever opens a text file, transformers too."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _named(value: object, path: Path | None) -> dict[str, str]:
    """Templates as a config writes them: one string, a list of {name, template}, or a mapping of names."""
    if value is None:
        return {}
    if isinstance(value, str):
        return {"default": value}
    if isinstance(value, list):
        pairs = [(_mapping(entry).get("name"), _mapping(entry).get("template")) for entry in value]
    else:
        pairs = list(_mapping(value).items())
    if not pairs or not all(isinstance(name, str) and isinstance(text, str) for name, text in pairs):
        raise InputError(
            str(path), f"chat_template is {str(value)[:60]!r}", "a string or a list of {name: ..., template: ...}"
        )
    return {str(name): str(text) for name, text in pairs}


def _added(companions: Companions) -> Added:
    in_json: list[Said] = []
    in_config: list[Said] = []
    for entry in _list((companions.tokenizer_json or {}).get("added_tokens")):
        token = _mapping(entry)
        if not _is_id(token.get("id")) or not isinstance(token.get("content"), str):
            raise InputError(
                str(companions.files.get("tokenizer.json")), f"added token {str(entry)[:80]}", "an id and a content"
            )
        in_json.append((token["id"], token))
    for number, entry in _mapping(companions.tokenizer_config.get("added_tokens_decoder")).items():
        token = _mapping(entry)
        if not (number.isascii() and number.isdigit() and len(number) < 10) or not isinstance(
            token.get("content"), str
        ):
            where = str(companions.files.get("tokenizer_config.json"))
            raise InputError(where, f"added_tokens_decoder has {number!r}: {str(entry)[:80]}", "an id and a content")
        in_config.append((int(number), token))
    if companions.tokenizer_json is not None:
        vocabulary = _mapping(companions.tokenizer_json.get("model")).get("vocab")
        return settle(vocabulary, in_json, in_config, str(companions.files["tokenizer.json"]))
    return Added(dict(sorted(in_config or _of_added_tokens_json(companions).items())))


def _of_added_tokens_json(companions: Companions) -> dict[int, JsonObject]:
    """The tokens of added_tokens.json, which counts where no newer file has any."""
    if "added_tokens.json" not in companions.files:
        return {}
    path = companions.files["added_tokens.json"]
    special = {token_text(companions.tokenizer_config.get(f"{kind}_token")) for kind in SPECIAL_KINDS}
    special |= {token_text(t) for t in _list(companions.tokenizer_config.get("additional_special_tokens"))}
    tokens: dict[int, JsonObject] = {}
    for content, number in read_json(path).items():
        if not _is_id(number):
            raise InputError(str(path), f"token {content!r} has the id {str(number)[:40]!r}", "a number")
        tokens[number] = {"content": content, "special": content in special}
    return tokens


def _mapping(value: object) -> JsonObject:
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _is_id(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _ids(value: object) -> list[int]:
    """The ids in `eos_token_id: 2`, `[2, 7]`, or anything else."""
    return [number for number in (value if isinstance(value, list) else [value]) if _is_id(number)]
