"""A few thousand damaged files and bodies; ``benchmarks.decoder_fuzz`` throws many more."""

from __future__ import annotations

import time

import pytest

from benchmarks import decoder_fuzz
from benchmarks.decoder_fuzz import Target, fuzz, run_batch
from benchmarks.hostile import FILES, damaged_files, join, split


def test_damaged_files_and_bodies_are_accepted_or_refused_as_documented() -> None:
    """No other exception, no warning, nothing that takes long or grows; and all of it gets somewhere."""
    found = fuzz(images=2000, bodies=400)["targets"]
    assert [one["inputs"] >= 400 for one in found.values()] == [True] * 4
    refused = {"image_unreadable", "image_format", "image_shape", "image_channels", "image_pixels", "image_empty"}
    assert set(found["images"]["outcomes"]) == refused | {"accepted"}
    for one in found.values():
        assert one["outcomes"]["accepted"] > 0


def test_what_is_not_documented_ends_a_run() -> None:
    def careless(data: bytes) -> None:
        if data[:2] == b"BM":
            raise IndexError("of the decoder")

    with pytest.raises(IndexError, match="of the decoder"):
        run_batch(Target("images", damaged_files(), careless), 0, 200)


@pytest.mark.parametrize("always", [True, False])
def test_an_input_that_always_takes_long_ends_a_run(always: bool) -> None:
    thrown = []

    def slow(data: bytes) -> None:
        thrown.append(data)
        begun = time.thread_time()
        while (always or len(thrown) == 1) and time.thread_time() - begun < 0.02:
            pass

    target = Target("images", damaged_files(), slow)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoder_fuzz, "LONGEST_SECONDS", 0.01)
        if always:
            with pytest.raises(RuntimeError, match="took"):
                target.throw(b"")
        else:
            target.throw(b"")
            assert (len(thrown), target.outcomes["accepted"]) == (1 + decoder_fuzz.RETRIES, 1)


def test_files_are_put_together_as_they_were_taken_apart() -> None:
    """Otherwise damage would never get past lengths and checksums."""
    parts = [split(file) for file in FILES]
    assert [join(one) for one in parts if len(one) > 2] == [f for f, one in zip(FILES, parts, strict=True) if one[0][0]]
    assert sum(len(one) > 2 for one in parts) == 2 * len(("png",) * 9 + ("jpeg",) * 4 + ("webp",) * 3)
