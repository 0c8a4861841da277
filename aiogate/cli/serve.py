"""`aiogate serve`: the gateway in the foreground."""

from __future__ import annotations

import gc
from pathlib import Path

import click

from aiogate.cli.printing import example
from aiogate.cli.settings import Mistaken, config_option, folder_option, last_good, read_settings
from aiogate.errors import DiagnosticsFound

__all__ = ["serve"]


@click.command(epilog=example("aiogate serve", "aiogate serve -c /etc/aiogate/aiogate.yaml --listen 0.0.0.0:8080"))
@config_option
@click.option("--listen", multiple=True, metavar="HOST:PORT", help="Where to take requests; may be given repeatedly.")
@click.option("--control", metavar="HOST:PORT", help="Where the control API listens, or `same`: on the gateway's port.")
@folder_option("apis", "Folder of API definitions [default: apis.d].")
@folder_option("policies", "Folder of policies [default: policies.d].")
@folder_option("plugins", "Folder of plugins [default: plugins].")
@folder_option("state", "Folder of the store's file and generated secrets [default: var].")
@click.option("--store", metavar="URL", help="Where state is kept: sqlite, memory or redis://… [default: sqlite].")
@click.option("--workers", metavar="N", help="Processes that take requests: a number, or auto [default: 1].")
@click.option("--watch", is_flag=True, help="Reload by itself when a file that was read changes.")
@click.option(
    "--keep-last-good", is_flag=True, help="If the files have mistakes, start on the last ones that had none."
)
@click.pass_context
def serve(
    ctx: click.Context,
    config: Path | None,
    listen: tuple[str, ...],
    control: str | None,
    apis: Path | None,
    policies: Path | None,
    plugins: Path | None,
    state: Path | None,
    store: str | None,
    workers: str | None,
    watch: bool,
    keep_last_good: bool,
) -> None:
    """Run the gateway until it is stopped.

    Prints one line when it is ready. SIGHUP reloads; SIGTERM and SIGINT let running requests finish and stop, a second
    one stops at once. Flags go before the environment (AIOGATE_LISTEN, AIOGATE_CONTROL__LISTEN, ...), and that before
    the settings file.
    """
    # Nearly all that a start makes stays: the collector would walk it again and again. The worker switches it on again.
    gc.disable()
    ctx.call_on_close(gc.enable)
    from aiogate.control.application import application
    from aiogate.proxy.listener import RuntimeUnfit
    from aiogate.runtime import worker

    flags: dict[str, object] = {
        "listen": listen or None,
        "control.listen": control,
        "apis": apis,
        "policies": policies,
        "plugins": plugins,
        "state": state,
        "store": store,
        "workers": workers,
        "watch": watch or None,
    }
    try:
        fall_back = (lambda mistakes: last_good(config, flags, mistakes)) if keep_last_good else None
        code = worker.serve(lambda: read_settings(config, flags), application, fall_back)
    except DiagnosticsFound as mistakes:
        raise Mistaken(mistakes.diagnostics) from mistakes
    except RuntimeUnfit as unfit:
        raise click.ClickException(str(unfit)) from unfit
    ctx.exit(code)
