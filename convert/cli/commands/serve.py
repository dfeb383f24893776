"""convert serve"""

from __future__ import annotations

from pathlib import Path

import click

from convert.cli.common import reports_errors

PORT = 8765


@click.command("serve")
@click.argument("out", metavar="OUT", type=click.Path(path_type=Path))
@click.option(
    "--port", default=PORT, show_default=True, type=click.IntRange(0, 65535), help="0 takes any that is free."
)
@click.option("--open", "opens", is_flag=True, help="Open the page in your browser.")
@reports_errors
def command(out: Path, port: int, opens: bool) -> int:
    """Open ONNX outputs in a browser on this machine: type, drop an image, see what it answers and how fast.

    OUT is an output's folder or one above it, as out/RECIPE. A page at 127.0.0.1 runs them by transformers.js, in
    WebAssembly or on WebGPU; nothing leaves the machine, and nothing is loaded from elsewhere. Ctrl-C ends it.
    """
    from convert.errors import InputError
    from convert.serving.outputs import REMEDY, find
    from convert.serving.server import ADDRESS, Site, open_server
    from validate import transformers_js
    from validate.errors import Unsupported

    try:
        package = transformers_js.find()
    except Unsupported as error:
        raise InputError("convert serve", str(error)) from error
    outputs = find(out)
    with open_server(Site({served.name: served for served in outputs}, package.modules), port) as server:
        address = f"http://{ADDRESS}:{server.port}/"
        click.echo(f"{address}  {', '.join(served.name for served in outputs) or f'no output in {out}: {REMEDY}'}")
        if opens:
            click.launch(address)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            click.echo("stopped", err=True)
    return 0
