"""``surety jobs submit | show | watch | cancel``: certificates that a server computes while nobody waits.

The exit status is that of surety certify, the worst of the images that are over; 4 also if the job was cancelled.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial

from tqdm import tqdm

from .client import Client, ClientError, Refused
from .commands import (
    ABSTAINED,
    ANSWERED,
    INTERRUPTED,
    REFUSED,
    USAGE,
    Result,
    add_connection,
    add_fields,
    add_images,
    at_most,
    fields_of,
    not_answered,
    one_line,
    plain_text,
    progress,
    read_image,
    say,
    sentence,
    with_client,
    worst_of,
)
from .event_schemas import EndEvent, ItemEvent, JobEvent, ProgressEvent, StageEvent
from .schemas import JobReply, JobStatus, Problem, Reply

OVER = frozenset({JobStatus.DONE, JobStatus.FAILED, JobStatus.CANCELLED})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The commands and their options."""
    parser.epilog = (__doc__ or "").split("\n\n", 1)[1]
    commands = parser.add_subparsers(dest="jobs_command", required=True, metavar="command")
    submit = commands.add_parser("submit", help="send images and print the job's id")
    add_images(submit)
    submit.add_argument("--wait", action="store_true", help="watch the job until it is over")
    submit.add_argument(
        "--idempotency-key",
        type=plain_text,
        metavar="KEY",
        help="1 to 255 characters; sent again with the same images and fields, it names the same job",
    )
    for name, text in (
        ("show", "what came of a job so far"),
        ("watch", "follow a job until it is over, through restarts of the server"),
        ("cancel", "end a job; what is done stays"),
    ):
        commands.add_parser(name, help=text).add_argument("id", type=plain_text, metavar="ID")
    for command in commands.choices.values():
        add_connection(command, "for each call; watching goes on until no server was there for so long")
        command.add_argument(
            "--json", action="store_true", help="one JSON object a line: the job; watching, its events"
        )
    add_fields(submit, certify=True)


def run(arguments: argparse.Namespace) -> int:
    """Run a command; returns the exit status."""
    commands = {"submit": _submit, "show": _show, "watch": _watch, "cancel": _cancel}
    return with_client(arguments, partial(_told, commands[arguments.jobs_command], arguments))


def _told(command: Callable[[argparse.Namespace, Client], int], arguments: argparse.Namespace, client: Client) -> int:
    """Run a command of this client, and say what it could not be answered for."""
    try:
        return command(arguments, client)
    except ClientError as error:
        result = not_answered(error)
        _complain("surety", result, as_json=arguments.json)
        return result.status


def _submit(arguments: argparse.Namespace, client: Client) -> int:
    names: list[str] = arguments.images
    images = []
    for name in names:
        image = read_image(name)
        if isinstance(image, Result):
            _complain(name, image, as_json=arguments.json, file=name)
        else:
            images.append(image)
    if len(images) < len(names):
        return USAGE
    try:
        job = client.submit_job(images, idempotency_key=arguments.idempotency_key, **fields_of(arguments))
    except ValueError as error:
        say(f"surety: {error}", sys.stderr)
        return USAGE
    except Refused as error:
        item = error.members.get("item")
        if not isinstance(item, int):
            raise
        result = not_answered(error)
        _complain(names[item], result, as_json=arguments.json, file=names[item])
        return result.status
    if arguments.wait:
        say(f"surety: job {job.id}", sys.stderr)
        return _follow(client, job, names, as_json=arguments.json)
    say(_json(job) if arguments.json else job.id, sys.stdout)
    return ANSWERED


def _show(arguments: argparse.Namespace, client: Client) -> int:
    job = client.job(arguments.id)
    _say_job(job, as_json=arguments.json)
    worst = REFUSED if job.status == JobStatus.CANCELLED else ANSWERED
    for one in job.items:
        result = Result(str(one.status), {}, ANSWERED)
        if one.reply is not None:
            result = Result(sentence(one.reply), {}, ABSTAINED if one.reply.abstained else ANSWERED)
        elif one.problem is not None:
            result = _failed(one.problem)
        if not arguments.json:
            _say_result(f"image {one.item}", result)
        worst = worst_of(worst, result.status)
    return worst


def _watch(arguments: argparse.Namespace, client: Client) -> int:
    job = client.job(arguments.id)
    return _follow(client, job, [f"image {one.item}" for one in job.items], as_json=arguments.json)


def _cancel(arguments: argparse.Namespace, client: Client) -> int:
    _say_job(client.cancel_job(arguments.id), as_json=arguments.json)
    return ANSWERED


def _say_job(job: JobReply, *, as_json: bool) -> None:
    over = sum(one.status in OVER for one in job.items)
    line = f"{job.id}: {job.status}, {over} of {len(job.items)} images over"
    say(_json(job) if as_json else line, sys.stdout)


def _follow(client: Client, job: JobReply, names: Sequence[str], *, as_json: bool) -> int:
    """Tell a job's events until it is over; the worst of its images. Ctrl-C ends the telling alone."""
    worst = ANSWERED
    try:
        with progress(len(job.items)) as bar:
            for event in client.events(job.id):
                result = _result_of(event)
                if isinstance(event, StageEvent | ProgressEvent):
                    bar.set_description(one_line(f"{names[event.item]}: {_so_far(event)}"))
                elif isinstance(event, ItemEvent):
                    bar.update()
                with tqdm.external_write_mode(file=sys.stdout):
                    if as_json:
                        say(_json(event), sys.stdout)
                    elif result is not None:
                        _say_result(names[event.item] if isinstance(event, ItemEvent) else "surety", result)
                worst = worst if result is None else worst_of(worst, result.status)
    except KeyboardInterrupt:
        say(f"surety: the job goes on; come back with: surety jobs watch {job.id}", sys.stderr)
        return INTERRUPTED
    return worst


def _so_far(event: StageEvent | ProgressEvent) -> str:
    if isinstance(event, StageEvent):
        return event.stage
    parts = [event.stage or "", f"{event.votes:,} votes"]
    if event.p_lower is not None:
        parts.append(f"p_lower {at_most(event.p_lower)}")
    if event.radius is not None:
        parts.append(f"radius {at_most(event.radius)}")
    return ", ".join(parts)


def _result_of(event: JobEvent) -> Result | None:
    """What is told to people of an event, and what it means for the exit status."""
    if isinstance(event, ItemEvent | EndEvent) and event.problem is not None:
        return _failed(event.problem)
    if isinstance(event, EndEvent) and event.kind == "cancelled":
        return Result("the job was cancelled", {}, REFUSED)
    if not isinstance(event, ItemEvent):
        return None
    parts = ["abstained" if event.abstained else f"class {event.class_name}"]
    if event.radius is not None:
        parts.append(f"radius {at_most(event.radius)} {event.radius_unit}")
    if event.certificate_id is not None:
        parts.append(f"certificate {event.certificate_id}")
    return Result(", ".join(parts), {}, ABSTAINED if event.abstained else ANSWERED)


def _json(reply: Reply) -> str:
    return json.dumps(reply.model_dump(mode="json", exclude_unset=True))


def _failed(problem: Problem) -> Result:
    return not_answered(Refused(problem))


def _complain(name: str, result: Result, *, as_json: bool, **about: str) -> None:
    if as_json:
        say(json.dumps({**about, **result.data}), sys.stdout)
    else:
        _say_result(name, result)


def _say_result(name: str, result: Result) -> None:
    say(f"{name}: {result.text}", sys.stdout if result.status in (ANSWERED, ABSTAINED) else sys.stderr)
