"""``surety serve | train | calibrate | evaluate | verify | compare | version``; each imports only what it needs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from certification import __version__

COMMANDS = {
    "train": ("models.training", "train a base classifier with the noise it is certified with"),
    "calibrate": ("models.calibrate", "calibrate a distributional error bound: E, rho_E, q_E"),
    "evaluate": ("models.evaluate", "certified accuracy on a data set"),
    "verify": ("service.offline", "check a certificate with its image and model, without a server"),
    "compare": ("models.compare", "the papers' procedure and ours on the same images"),
}


def _serve(arguments: argparse.Namespace) -> int:
    from pydantic import ValidationError

    from .settings import Settings

    given = {name: getattr(arguments, name) for name in ("host", "port", "zoo", "device")}
    try:
        settings = Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        for one in error.errors():
            name = ".".join(str(part) for part in one["loc"])
            print(f"surety: SURETY_{name.upper()}: {one['msg']}, not {one['input']!r}", file=sys.stderr)
        return 2
    from .server import serve  # after the settings: it loads torch

    return serve(settings)


def _version(_: argparse.Namespace) -> int:
    print(__version__)
    return 0


def _parser(command: str | None) -> argparse.ArgumentParser:
    """All commands; the options of ``command`` alone, since they come with its module."""
    parser = argparse.ArgumentParser(prog="surety", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    serve = commands.add_parser("serve", help="run the HTTP service; SURETY_... variables set the rest")
    serve.add_argument("--host", help="address to listen on (SURETY_HOST, 127.0.0.1)")
    serve.add_argument("--port", help="port, 0 for any (SURETY_PORT, 8000)")
    serve.add_argument("--zoo", help="directory of models (SURETY_ZOO, the shipped ones)")
    serve.add_argument("--device", help="auto, cpu or cuda (SURETY_DEVICE, auto)")
    serve.set_defaults(run=_serve)
    for name, (module, text) in COMMANDS.items():
        sub = commands.add_parser(name, help=text)
        if name == command:
            loaded = import_module(module)
            loaded.add_arguments(sub)
            sub.set_defaults(run=loaded.run)
    commands.add_parser("version", help="print the version").set_defaults(run=_version)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = _parser(words[0] if words else None).parse_args(words)
    run: Callable[[argparse.Namespace], int] = arguments.run
    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
