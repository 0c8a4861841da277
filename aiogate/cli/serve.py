"""`aiogate serve`."""

from __future__ import annotations

import click

from aiogate.cli.output import fail
from aiogate.cli.settings import folder_options, line, read_settings
from aiogate.errors import DiagnosticsFound


@click.command()
@folder_options
@click.option("--listen", metavar="HOST:PORT", multiple=True, help="Where to take requests; may be repeated.")
@click.option("--control", metavar="HOST:PORT", help="Where the control API listens, or `same`.")
@click.option("--store", metavar="URL", help="sqlite or memory.")
@click.option("--workers", metavar="N", help="Worker processes, or `auto`.")
def serve(
    config: str | None,
    listen: tuple[str, ...],
    control: str | None,
    apis: str | None,
    policies: str | None,
    plugins: str | None,
    state: str | None,
    store: str | None,
    workers: str | None,
) -> None:
    """Run the gateway in the foreground.

    It prints one line when it is ready. SIGHUP reloads; SIGTERM and SIGINT finish the running requests and stop, a
    second one cuts them.

    \b
    Example:
      aiogate serve --listen 0.0.0.0:8080 --apis /etc/aiogate/apis.d
    """
    from aiogate.control.application import application
    from aiogate.proxy.listener import RuntimeUnfit
    from aiogate.runtime import worker

    flags: dict[str, object] = {
        "listen": list(listen) or None,
        "control.listen": control,
        "apis": apis,
        "policies": policies,
        "plugins": plugins,
        "state": state,
        "store": store,
        "workers": workers,
    }
    try:
        code = worker.serve(lambda: read_settings(config, flags), application)
    except DiagnosticsFound as found:
        fail("\n".join(line(diagnostic) for diagnostic in found.diagnostics))
    except RuntimeUnfit as unfit:
        fail(str(unfit))
    raise SystemExit(code)
