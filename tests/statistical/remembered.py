"""The sequential tests' functions with a memory, so that thousands of runs do not compute the same numbers again."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from certification import adaptive, effort, plan, schedule, sequential

ROOMS = (adaptive, effort, plan, schedule)


def elementwise(function: Callable[..., NDArray[Any]], dtype: type, arrays: int = 3) -> Callable[..., NDArray[Any]]:
    """``function`` of so many arrays and some numbers, asked only for elements that were never asked for."""
    memories: dict[tuple[Any, ...], dict[tuple[Any, ...], Any]] = {}

    def lookup(*arguments: Any) -> NDArray[Any]:
        columns, rest = np.broadcast_arrays(*arguments[:arrays]), arguments[arrays:]
        keys = list(zip(*(column.ravel().tolist() for column in columns), strict=True))
        memory = memories.setdefault(rest, {})
        if unknown := [key for key in dict.fromkeys(keys) if key not in memory]:
            values = function(*(np.array(column) for column in zip(*unknown, strict=True)), *rest)
            memory.update(zip(unknown, values.tolist(), strict=True))
        return np.array([memory[key] for key in keys], dtype=dtype).reshape(columns[0].shape)

    return lookup


def _by_looks() -> Callable[..., NDArray[np.int64]]:
    @functools.cache
    def counts(looks: bytes, p0: float, alpha: float) -> NDArray[np.int64]:
        return sequential.smallest_accepting_counts(np.frombuffer(looks, dtype=np.int64), p0, alpha)

    return lambda trials, p0, alpha: counts(trials.astype(np.int64).tobytes(), p0, alpha)


QUICK: dict[str, Callable[..., Any]] = {
    "accepts": elementwise(sequential.accepts, bool),
    "rejects": elementwise(sequential.rejects, bool),
    "votes_to_accept": elementwise(sequential.votes_to_accept, np.int64),
    "lower_bounds": elementwise(sequential.lower_bounds, float, arrays=2),
    "lower_bound": functools.cache(sequential.lower_bound),
    "smallest_accepting_n": functools.cache(sequential.smallest_accepting_n),
    "smallest_accepting_counts": _by_looks(),
}


@contextmanager
def remembered() -> Iterator[None]:
    """Inside, the runs use functions that return what the functions of ``sequential`` returned before."""
    replaced = [(room, name, getattr(room, name)) for room in ROOMS for name in QUICK if hasattr(room, name)]
    for room, name, _ in replaced:
        setattr(room, name, QUICK[name])
    try:
        yield
    finally:
        for room, name, function in replaced:
            setattr(room, name, function)
