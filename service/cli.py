"""``surety serve | certify | predict | jobs | verify | keys | train | ...``; each imports only what it needs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pkgutil import resolve_name

from certification import __version__

COMMANDS = {
    "certify": ("service.commands:certify", "certify images with a running service"),
    "predict": ("service.commands:predict", "label images with a running service"),
    "jobs": ("service.commands_jobs", "certify images while nobody waits: send, look, watch, cancel"),
    "keys": ("service.commands_keys", "make, list and revoke API keys"),
    "train": ("models.training", "train a base classifier with the noise it is certified with"),
    "calibrate": ("service.ray_map:calibrate", "calibrate a distributional error bound: E, rho_E, q_E"),
    "evaluate": ("service.ray_map:evaluate", "certified accuracy on a data set"),
    "verify": ("service.offline", "check a certificate with its image and model, without a server"),
    "compare": ("models.compare", "the papers' procedure and ours on the same images"),
}


def _serve(arguments: argparse.Namespace) -> int:
    from pydantic import ValidationError

    from .settings import Settings, complaints

    given = {name: getattr(arguments, name) for name in ("host", "port", "zoo", "device")}
    try:
        settings = Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        print(complaints(error), file=sys.stderr)
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
    for name, (where, text) in COMMANDS.items():
        sub = commands.add_parser(name, help=text)
        if name == command:
            loaded = resolve_name(where)
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
