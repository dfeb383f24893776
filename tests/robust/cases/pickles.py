"""Pickles: every gadget that is known, in every container, and what is made to pass a scanner by."""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable

from tests.hostile import WEIGHTS
from tests.robust.cases.base import Case, Place, cases

NAME = "pytorch_model.bin"
GADGETS = (
    # what runs a command
    *("os system", "posix system", "nt system", "os popen", "os execv", "os spawnl", "os posix_spawn", "pty spawn"),
    *("subprocess Popen", "subprocess run", "subprocess call", "subprocess check_output", "subprocess getoutput"),
    *("commands getoutput", "popen2 popen3", "platform popen", "uuid _get_command_stdout", "pydoc pipepager"),
    *("asyncio.unix_events _UnixSubprocessTransport._start", "multiprocessing.util spawnv_passfds", "webbrowser open"),
    *("test.support.script_helper assert_python_ok", "distutils.spawn spawn", "ensurepip _run_pip", "pip main"),
    *("venv create", "lib2to3.pgen2.pgen ParserGenerator.make_label", "idlelib.run Executive.runcode"),
    # what runs Python
    *("builtins eval", "builtins exec", "__builtin__ eval", "__builtin__ execfile", "builtins compile"),
    *("builtins __import__", "builtins getattr", "builtins apply", "builtins open", "builtins breakpoint", "io open"),
    *("importlib import_module", "importlib.machinery SourceFileLoader", "runpy run_path", "runpy _run_code"),
    *("code InteractiveInterpreter.runcode", "codeop compile_command", "types FunctionType", "types CodeType"),
    *("timeit timeit", "timeit main", "trace Trace.run", "cProfile run", "profile run", "pdb run", "pdb Pdb.do_shell"),
    *("bdb Bdb.run", "doctest debug_script", "site main", "zipimport zipimporter.load_module", "pkgutil resolve_name"),
    # what reads another program
    *("pickle loads", "_pickle loads", "cPickle loads", "marshal loads", "dill loads", "cloudpickle loads"),
    *("joblib load", "shelve open", "torch load", "torch.storage _load_from_bytes", "torch.hub load"),
    *("torch.jit load", "torch.serialization load", "torch.package PackageImporter", "numpy load"),
    *("torch.utils._config_module ConfigModule.load_config", "torch._inductor.codecache compile_file"),
    *("torch.distributed.elastic.multiprocessing start_processes", "torch._dynamo.guards GuardBuilder.get"),
    *("numpy.testing._private.utils runstring", "numpy.f2py.crackfortran getlincoef", "numpy.core.multiarray scalar"),
    # what calls what it is given
    *("operator attrgetter", "operator methodcaller", "operator itemgetter", "functools partial", "functools reduce"),
    *("_operator attrgetter", "itertools starmap", "builtins map", "builtins filter", "concurrent.futures submit"),
    # what reads, writes and sends
    *("shutil rmtree", "shutil copyfile", "os remove", "os rename", "pathlib Path.write_bytes", "linecache getline"),
    *("distutils.file_util write_file", "tempfile mkstemp", "logging FileHandler", "logging.config listen"),
    *("socket create_connection", "urllib.request urlopen", "requests get", "http.client HTTPSConnection"),
    *("smtplib SMTP", "ftplib FTP", "aiohttp.client ClientSession", "ssl get_server_certificate", "ctypes CDLL"),
    *("sys exit", "sys settrace", "sys setrecursionlimit", "signal raise_signal", "gc get_objects", "os _exit"),
)


def _call(gadget: str, witness: str, protocol: int) -> bytes:
    """A program that calls the gadget with the word."""
    module, name = gadget.split(" ", 1)
    word = f"touch {witness}".encode()
    if protocol < 2:
        return b"c" + f"{module}\n{name}\n".encode() + b"(S'" + word + b"'\ntR."
    text = b"X" + struct.pack("<I", len(word)) + word
    if protocol < 4:
        return b"\x80\x02c" + f"{module}\n{name}\n".encode() + text + b"\x85R."
    names = b"".join(b"\x8c" + bytes([len(part)]) + part.encode() for part in (module, name))
    return b"\x80\x04" + names + b"\x93" + text + b"\x85R."


def _archive(program: bytes, *more: tuple[str, bytes], packed: bool = False) -> bytes:
    """As torch.save writes it."""
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
        for name, content in (("archive/data.pkl", program), ("archive/version", b"3\n"), *more):
            archive.writestr(name, content)
    return raw.getvalue()


def _legacy(program: bytes) -> bytes:
    """As PyTorch before 1.6 wrote it."""
    parts = [pickle.dumps(part, protocol=2) for part in (0x1950A86A20F9469CFC6C, 1001, {})]
    return b"".join([*parts, program, pickle.dumps([], protocol=2)])


def _put(raw: Callable[[Place], bytes], name: str = NAME) -> Callable[[Place], None]:
    def make(place: Place) -> None:
        (place.model / WEIGHTS).unlink(missing_ok=True)
        place.write(f"Tiny/{name}", raw(place))

    return make


def _gadget(number: int, gadget: str) -> Case:
    """In turn in an archive and as before 1.6, in protocols 0, 2 and 4."""
    wrap, protocol = (_archive, _legacy)[number % 2], (0, 2, 4)[number // 2 % 3]
    return Case(
        "gadget",
        f"{gadget} ({'archive' if wrap is _archive else 'legacy'}, protocol {protocol})",
        _put(lambda place: wrap(_call(gadget, str(place.witness), protocol))),
        says="wants to import",
    )


def _text(word: str) -> bytes:
    return b"\x8c" + bytes([len(word)]) + word.encode()


def _system(place: Place) -> bytes:
    return _call("os system", str(place.witness), 2)


def _behind(place: Place, first: bytes) -> bytes:
    """A good program, and the bad one behind it or before it."""
    return first + _system(place)


def _mismatched(place: Place) -> bytes:
    """The name in the archive's list is not the one before the bytes."""
    raw = _archive(_system(place))
    return raw.replace(b"archive/data.pkl", b"archive/data.txt", 1)


def _encrypted(place: Place) -> bytes:
    raw = bytearray(_archive(_system(place)))
    for sign, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        raw[raw.index(sign) + at] |= 1
    return bytes(raw)


def _bad_crc(place: Place) -> bytes:
    raw = bytearray(_archive(_system(place)))
    raw[raw.index(b"PK\x01\x02") + 16] ^= 0xFF
    return bytes(raw)


def _two_lists(place: Place) -> bytes:
    """An archive behind an archive: readers differ in which of the lists they take."""
    return _archive(b"\x80\x02}.") + _archive(_system(place))


def _tar(name: str) -> Callable[[Place], bytes]:
    """The format of PyTorch 0.1, with a path that leads out."""

    def raw(place: Place) -> bytes:
        made = io.BytesIO()
        with tarfile.open(fileobj=made, mode="w") as archive:
            info = tarfile.TarInfo(name)
            info.size = 4
            archive.addfile(info, io.BytesIO(b"evil"))
        return made.getvalue()

    return raw


def _bomb(levels: int) -> bytes:
    """A tuple of ten of a tuple of ten …: 10**levels values in a few bytes."""
    out = b"\x80\x02)\x94" if False else b"\x80\x02)q\x00"
    for level in range(levels):
        out += b"(" + b"h" + bytes([level]) + (b"h" + bytes([level])) * 9 + b"tq" + bytes([level + 1])
    return out + b"."


def _tensor(size: int, stride: int = 1, offset: int = 0, elements: int = 4) -> bytes:
    """A dict of one tensor, of four floats that are stored, which claims more."""

    def number(value: int) -> bytes:
        return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)

    storage = (
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
        + number(elements)
        + b"tQ"
    )
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(offset)
    call += number(size) + b"\x85" + number(stride) + b"\x85" + b"\x89ccollections\nOrderedDict\n)RtR"
    return b"\x80\x02}X\x01\x00\x00\x00a" + call + b"s."


def _lies(**words: int) -> Callable[[Place], None]:
    return _put(lambda place: _archive(_tensor(**words), ("archive/data/0", bytes(16))))


EVADING = {
    "by names that are memoized": lambda p: _archive(
        b"\x80\x04" + _text("os") + b"\x94" + _text("system") + b"\x940" + b"0h\x00h\x01\x93" + _text("id") + b"\x85R."
    ),
    "by INST": lambda p: _archive(b"(S'touch " + str(p.witness).encode() + b"'\nios\nsystem\n."),
    "by OBJ": lambda p: _archive(b"(cos\nsystem\nS'touch " + str(p.witness).encode() + b"'\no."),
    "by NEWOBJ": lambda p: _archive(b"\x80\x02csubprocess\nPopen\nX\x04\x00\x00\x00true\x85\x81."),
    "by NEWOBJ_EX": lambda p: _archive(
        b"\x80\x04" + _text("subprocess") + _text("Popen") + b"\x93" + _text("true") + b"\x85}\x92."
    ),
    "by an extension's number": lambda p: _archive(b"\x80\x02\x82\x01)R."),
    "by a name behind a name": lambda p: _archive(
        b"\x80\x04" + _text("collections") + _text("OrderedDict.__init__.__globals__") + b"\x93."
    ),
    "by a module within torch": lambda p: _archive(
        b"\x80\x04" + _text("torch") + _text("serialization.os.system") + b"\x93" + _text("id") + b"\x85R."
    ),
    "by a name made while it runs": lambda p: _archive(
        b"\x80\x04" + _text("os") + b"ccollections\nOrderedDict\n)R\x93."
    ),
    "by a state": lambda p: _archive(
        b"\x80\x02ccollections\nOrderedDict\n)R}X\x0c\x00\x00\x00__setstate__cos\nsystem\nsb."
    ),
    "by a persistent id": lambda p: _archive(b"\x80\x02cos\nsystem\nQ."),
    "before a mistake": lambda p: _archive(_system(p)[:-1] + b"\xff\xff."),
    "before nothing": lambda p: _archive(_system(p)[:-1]),
    "behind a good program": lambda p: _archive(_behind(p, b"\x80\x02}.")),
    "as text between good ones": lambda p: _archive(b"\x80\x02}" + b"0" + _system(p)[2:]),
    "in no container": _system,
    "behind a byte": lambda p: b"\n" + _system(p),
    "in an archive with another name inside": _mismatched,
    "in an archive that is encrypted": _encrypted,
    "in an archive with a wrong sum": _bad_crc,
    "in the second of two archives": _two_lists,
    "in an archive, twice": lambda p: _archive(b"\x80\x02}.", ("evil/data.pkl", _system(p))),
    "in a compressed archive": lambda p: _archive(_system(p), packed=True),
    "in a 7z archive": lambda p: b"7z\xbc\xaf\x27\x1c" + bytes(64) + _system(p),
    "in a tar archive": _tar("storages"),
    "in a tar archive that leads out": _tar("../../pwned"),
    "in the comment of an archive": lambda p: _archive(b"\x80\x02}.") + _system(p),
}
BOMBS = {
    "10**9 tuples": _put(lambda p: _archive(_bomb(9))),
    "10**20 tuples": _put(lambda p: _archive(_bomb(20))),
    "sixty million opcodes": _put(lambda p: _archive(b"\x80\x02" + b"N0" * (30 << 20) + b".")),
    "sixty million opcodes, as before 1.6": _put(lambda p: b"\x80\x02" + b"N0" * (30 << 20) + b"."),
    "marks within marks": _put(lambda p: _archive(b"\x80\x02" + b"(" * (1 << 20) + b".")),
    "lists within lists": _put(
        lambda p: _archive(b"\x80\x02" + b"]" + b"]a" * 0 + b"]" * 100_000 + b"a" * 100_000 + b".")
    ),
    "a number of a million bytes": _put(
        lambda p: _archive(b"\x80\x02\x8b" + struct.pack("<I", 1 << 20) + b"\x7f" * (1 << 20) + b".")
    ),
    "a text of 2**60 bytes": _put(lambda p: _archive(b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60) + b".")),
    "a frame of 2**60 bytes": _put(lambda p: _archive(b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b".")),
    "digits, a million": _put(lambda p: _archive(b"I" + b"9" * (1 << 20) + b"\n.")),
    "a memo at 2**31": _put(lambda p: _archive(b"\x80\x02Nr" + struct.pack("<I", (1 << 31) - 1) + b".")),
    "a zip bomb": _put(lambda p: _archive(b"\x80\x02}.", ("archive/data/0", bytes(64 << 20)), packed=True)),
    "a tensor of 10**15 values": _lies(size=10**15),
    "a tensor of 10**15 values with a stride of 0": _lies(size=10**15, stride=0),
    "a tensor with a negative stride": _lies(size=4, stride=-1),
    "a tensor far behind its storage": _lies(size=4, offset=10**12),
    "a storage of 10**15 values": _lies(size=4, elements=10**15),
    "a storage of less than nothing": _lies(size=4, elements=-4),
}
OTHERS = ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "adapter_model.bin", "weights.ckpt")


def _beside(name: str) -> Callable[[Place], object]:
    """A bad program beside good weights, which nobody has to read."""
    return lambda place: place.write(f"Tiny/{name}", _archive(_system(place)))


def _shard(place: Place) -> None:
    (place.model / WEIGHTS).unlink()
    place.write("Tiny/pytorch_model-00001-of-00002.bin", _archive(b"\x80\x02}."))
    place.write("Tiny/pytorch_model-00002-of-00002.bin", _archive(_system(place)))


def _trainer(name: str) -> Callable[[Place], None]:
    def make(place: Place) -> None:
        (place.model / WEIGHTS).unlink()
        place.write(f"Tiny/{name}", _archive(_system(place)) if name.endswith(".pt") else _system(place))

    return make


CASES = [
    *(_gadget(number, gadget) for number, gadget in enumerate(GADGETS)),
    *cases("evading", {name: _put(raw) for name, raw in EVADING.items()}),
    *cases("pickle bomb", BOMBS, errors=2),
    *(Case("pickle beside", name, _beside(name), harmless=True) for name in OTHERS),
    Case("pickle", "in the second shard", _shard, says="wants to import"),
    Case("pickle", "a trainer's index", _trainer(".metadata")),
    Case("pickle", "a trainer's rank", _trainer("mp_rank_00_model_states.pt")),
]
