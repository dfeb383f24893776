"""`convert serve` hands out what the page needs, and nothing else of the machine."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from convert.cli import main
from convert.errors import InputError
from convert.serving.outputs import find
from convert.serving.server import ADDRESS, Site, open_server
from validate import transformers_js

Answer = tuple[int, dict[str, str], bytes]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Outputs of graphs that are none, a secret beside them, and a link to it."""
    home = tmp_path_factory.mktemp("serve")
    for name, stem in (("demo/text", "model"), ("demo/fara", "decoder_model_merged")):
        graphs = home / "out" / name / "onnx"
        graphs.mkdir(parents=True)
        (graphs.parent / "config.json").write_text("{}")
        (graphs / f"{stem}_q4.onnx").write_bytes(bytes(range(100)))
        (graphs / f"{stem}_q4.onnx_data").write_bytes(bytes(1000))
        (graphs / f"{stem}_bf16.onnx").write_bytes(b"no dtype of its own")
    for name, size in (("vision_encoder", 5), ("embed_tokens", 10)):
        (home / "out" / "demo" / "fara" / "onnx" / f"{name}_q4.onnx").write_bytes(bytes(size))
    (home / "out" / "bert" / "onnx").mkdir(parents=True)
    (home / "out" / "bert" / "config.json").write_text('{"architectures": ["BertModel"]}')
    (home / "out" / "bert" / "onnx" / "model.onnx").write_bytes(b"an encoder's")
    (home / "out" / "flat").mkdir()
    (home / "out" / "flat" / "model.onnx").write_bytes(b"beside no folder onnx")
    (home / "secret").write_text("secret")
    (home / "out" / "demo" / "text" / "link").symlink_to(home / "secret")
    for package in ("@huggingface/transformers/dist", "@huggingface/transformers/src", "onnxruntime-web/dist"):
        (home / "node_modules" / package).mkdir(parents=True)
        (home / "node_modules" / package / "a.wasm").write_bytes(b"\0asm")
    return home


@pytest.fixture(scope="module")
def port(home: Path) -> Iterator[int]:
    site = Site({served.name: served for served in find(home / "out")}, home / "node_modules")
    with open_server(site, 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.port
        server.shutdown()


def ask(port: int, path: str, method: str = "GET", **headers: str) -> Answer:
    connection = http.client.HTTPConnection(ADDRESS, port, timeout=30)
    connection.putrequest(method, path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read()
    connection.close()
    return found


def test_outputs_are_listed_with_their_dtypes_and_sizes(port: int) -> None:
    status, headers, body = ask(port, "/outputs.json")
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert json.loads(body)["outputs"] == [
        {"name": "demo/fara", "images": True, "dtypes": {"q4": {"bytes": 1115, "largest": 1000}}},
        {"name": "demo/text", "images": False, "dtypes": {"q4": {"bytes": 1100, "largest": 1000}}},
    ]


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html"),
        ("/page.js", "text/javascript"),
        ("/models/demo/text/config.json", "application/json"),
        ("/models/demo/text/onnx/model_q4.onnx", "application/octet-stream"),
        ("/package/onnxruntime-web/dist/a.wasm", "application/wasm"),
        ("/package/@huggingface/transformers/dist/a.wasm?x=1", "application/wasm"),
    ],
)
def test_what_the_page_needs_is_there(path: str, kind: str, port: int) -> None:
    status, headers, body = ask(port, path)
    assert (status, headers["Content-Type"]) == (200, kind)
    assert len(body) == int(headers["Content-Length"])
    assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    assert "default-src 'self'" in headers["Content-Security-Policy"]
    assert ask(port, path, "HEAD")[2] == b""


@pytest.mark.parametrize(
    "path",
    [
        "/../secret",
        "/models/demo/text/../../../secret",
        "/models/demo/text/%2e%2e/%2e%2e/%2e%2e/secret",
        "/models/demo/text/..%2f..%2f..%2fsecret",
        "/models/demo/text/link",
        "/models/demo/text//config.json",
        "/models/demo/text",
        "/models/flat/model.onnx",
        "/models/demo/text/onnx\\model_q4.onnx",
        "/package/@huggingface/transformers/src/a.wasm",
        "/package/../../secret",
        "/server.py",
        "/../server.py",
        "//etc/passwd",
        "/models/demo/text/a%00b",
    ],
)
def test_no_path_leads_out(path: str, port: int) -> None:
    status, _, body = ask(port, path)
    assert status == 404
    assert b"secret" not in body


def test_only_a_page_of_this_machine_is_answered(port: int) -> None:
    assert ask(port, "/outputs.json", Host="evil.example")[0] == 403
    assert ask(port, "/outputs.json", Host=f"localhost:{port}")[0] == 200
    assert ask(port, "/outputs.json", "POST")[0] == 501


@pytest.mark.parametrize(
    ("asked", "status", "got", "said"),
    [
        ("bytes=10-19", 206, bytes(range(10, 20)), "bytes 10-19/100"),
        ("bytes=95-", 206, bytes(range(95, 100)), "bytes 95-99/100"),
        ("bytes=-3", 206, bytes(range(97, 100)), "bytes 97-99/100"),
        ("bytes=90-400", 206, bytes(range(90, 100)), "bytes 90-99/100"),
        ("bytes=100-", 416, b"", "bytes */100"),
        ("bytes=-0", 416, b"", "bytes */100"),
        ("bytes=1-2,5-6", 200, bytes(range(100)), None),
        ("lines=1-2", 200, bytes(range(100)), None),
    ],
)
def test_parts_of_a_file(asked: str, status: int, got: bytes, said: str | None, port: int) -> None:
    answer = ask(port, "/models/demo/text/onnx/model_q4.onnx", Range=asked)
    assert (answer[0], answer[2], answer[1].get("Content-Range")) == (status, got, said)


def test_a_port_that_is_taken_and_a_folder_that_is_none_are_told(port: int, home: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"--port: port {port} cannot be used .*; --port 0 takes any"):
        open_server(Site({}, home), port)
    with pytest.raises(InputError, match="does not exist, wanted the folder of a run's outputs"):
        find(tmp_path / "gone")


def test_without_transformers_js_the_command_says_how_to_get_it(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(transformers_js.VARIABLE, str(tmp_path))
    result = CliRunner().invoke(main, ["serve", str(home / "out")])
    assert result.exit_code == InputError.exit_code
    assert "`make web`" in result.output
