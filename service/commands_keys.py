"""``surety keys new | list | revoke``: the file of API keys."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from .keys import KeyEntry, KeysError, Scope, make_key, read_keys, write_keys
from .settings import Settings, complaints


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The commands and their options."""
    commands = parser.add_subparsers(dest="keys_command", required=True, metavar="command")
    new = commands.add_parser("new", help="make a key and print it, once; the file holds its hash")
    new.add_argument("--name", required=True, help="whose it is: small letters, digits and hyphens")
    new.add_argument(
        "--scopes",
        required=True,
        type=scopes,
        help="what it may do, comma-separated: predict; certify (and predict); admin (metrics)",
    )
    new.add_argument("--rate", type=int, help="requests a minute (no limit)")
    new.add_argument("--budget", type=int, help="base-classifier votes a day, UTC (no limit)")
    new.add_argument("--expires", type=_moment, help="date or time from which it is not valid (UTC unless it says)")
    commands.add_parser("list", help="names, scopes and limits")
    revoke = commands.add_parser("revoke", help="remove a key; a running server notices at once")
    revoke.add_argument("--name", required=True)
    for command in commands.choices.values():
        command.add_argument("--file", type=Path, help="the file (SURETY_KEYS_FILE)")


def run(arguments: argparse.Namespace) -> int:
    """Run a command; 0, or 2 and a message."""
    try:
        path = arguments.file or Settings().keys_file
        if path is None:
            raise KeysError("name the file of keys with --file or SURETY_KEYS_FILE")
        if arguments.keys_command == "new":
            _new(path, arguments)
        elif arguments.keys_command == "revoke":
            _revoke(path, arguments.name)
        else:
            _list(path)
    except ValidationError as error:
        print(complaints(error), file=sys.stderr)
        return 2
    except (KeysError, OSError) as error:
        print(f"surety: {error}", file=sys.stderr)
        return 2
    return 0


def scopes(text: str) -> list[Scope]:
    """The scopes of a comma-separated list; raises ValueError."""
    return [Scope(one) for one in text.split(",")]


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _new(path: Path, arguments: argparse.Namespace) -> None:
    entries = read_keys(path) if path.exists() else {}
    if arguments.name in entries:
        raise KeysError(f"{path}: there is a key {arguments.name!r}; revoke it first, or choose another name")
    try:
        key, entry = make_key(
            arguments.name,
            arguments.scopes,
            requests_per_minute=arguments.rate,
            votes_per_day=arguments.budget,
            expires=arguments.expires,
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise KeysError(f"{first['loc'][0]}: {first['msg']}") from error
    write_keys(path, {**entries, entry.name: entry})
    print(key)
    print(f"surety: {path} holds its hash; the key itself is shown this once", file=sys.stderr)


def _revoke(path: Path, name: str) -> None:
    entries = read_keys(path)
    if entries.pop(name, None) is None:
        raise KeysError(f"{path}: there is no key {name!r}")
    write_keys(path, entries)


def _list(path: Path) -> None:
    for entry in read_keys(path).values():
        print(_line(entry))


def _line(entry: KeyEntry) -> str:
    rate = "no rate" if entry.requests_per_minute is None else f"{entry.requests_per_minute} requests a minute"
    budget = "no budget" if entry.votes_per_day is None else f"{entry.votes_per_day} votes a day"
    until = "does not expire" if entry.expires is None else f"expires {entry.expires.isoformat()}"
    if entry.expired:
        until = f"EXPIRED {until.removeprefix('expires ')}"
    return f"{entry.name}  {','.join(entry.scopes)}  {rate}, {budget}, {until}"
