"""``archsearch dashboard``."""

import tempfile
import webbrowser
from contextlib import nullcontext, suppress
from html import escape
from pathlib import Path
from typing import Annotated

import typer

from archsearch.api import Study
from archsearch.cli.app import app, complain, heed_termination, say
from archsearch.cli.results import RunArgument
from archsearch.report.live.guard import is_loopback
from archsearch.report.live.server import bind, live_page
from archsearch.study.trials import NotBegunError

PORT = 8420


@app.command()
def dashboard(
    run_dir: RunArgument,
    host: Annotated[
        str, typer.Option(help="Address to listen on; by default only this machine reaches it.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 picks a free one.")] = PORT,
    optuna: Annotated[
        bool,
        typer.Option(
            "--optuna", help="Serve optuna-dashboard of the run instead, with the sample pictures."
        ),
    ] = False,
    open_browser: Annotated[
        bool, typer.Option("--open", help="Open the page in the browser.")
    ] = False,
) -> None:
    """Watch a run in the browser while it goes on, and steer it.

    The page shows what is trained now with its curves, and the report, written anew as trials
    finish; it can stop the run, and go on with it. Ctrl-C ends the dashboard, not the run.
    """

    def opened() -> Study:
        return Study.open(run_dir)

    study = opened()
    # A run that is just making ready has no trials yet: its page waits for them.
    with nullcontext() if optuna else suppress(NotBegunError):
        study.results.trials.all()
    if optuna:
        from archsearch.report.live.grids import optuna_page

        application = optuna_page(study)
    else:
        application = live_page(run_dir, opened)
    server, guard = bind(application, host, port, writes=not optuna)
    if not is_loopback(host):
        complain(_warning(host, server.server_port, writes=not optuna))
    say(f"{study.name}: {guard.address}")
    complain("Ctrl-C ends the dashboard, not the run.")
    heed_termination()
    with tempfile.TemporaryDirectory() as folder, server:
        if open_browser:
            webbrowser.open(_way_to(guard.address, Path(folder)))
        server.serve_forever()


def _way_to(address: str, folder: Path) -> str:
    """A page that leads to ``address`` and that nobody else can read: a browser's command line,
    which everybody on the machine can, then does not hold the token.
    """
    page = folder / "dashboard.html"
    page.touch(mode=0o600)
    link = escape(address)
    page.write_text(
        f'<!doctype html><meta http-equiv="refresh" content="0; url={link}">'
        f'<a href="{link}">dashboard</a>\n',
        encoding="utf-8",
    )
    return page.as_uri()


def _warning(host: str, port: int, writes: bool) -> str:
    may = "can see this run, stop it and start it again" if writes else "can see this run"
    return (
        f"warning: --host {host}: whoever reaches this machine over the network and has the "
        f"address below {may}. The connection is not encrypted: who listens on the network can "
        f"read the token. Safer is --host 127.0.0.1 and `ssh -L {port}:127.0.0.1:{port} HOST`."
    )
