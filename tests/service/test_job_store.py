"""Leases and events in the database, SQLite and PostgreSQL: who may take, who may write, in which order it is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import select

from service.errors import JobLimitError, UnknownJobError
from service.job_store import JobStore, LeaseLost
from service.job_tables import EventKind, Lease, NewEvent, NewJob
from service.schemas import JobStatus
from service.store import Record, Store

OWNER, LONG, SHORT = "lab", 60.0, 0.05
PROGRESS = NewEvent(EventKind.PROGRESS, {"votes": 1}, 0)


@pytest.fixture(params=["sqlite", "postgresql"])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Store, Store]]:
    """One database, as two servers have it."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'jobs.sqlite'}"
    else:
        url = request.getfixturevalue("postgres").create_database()
    both = Store(url), Store(url)
    for one in both:
        one.open()
    yield both
    for one in both:
        one.close()


@pytest.fixture
def jobs(stores: tuple[Store, Store]) -> tuple[JobStore, JobStore]:
    return JobStore(stores[0]), JobStore(stores[1])


def job(name: str, images: int = 1, *, key: str | None = None, owner: str = OWNER) -> NewJob:
    made = [(b"image %d" % i, f"{i:064x}") for i in range(images)]
    return NewJob(name, time.time(), owner, key, "digest", '{"recipe": true}', made)


def take(store: JobStore, seconds: float = LONG) -> Lease:
    lease = store.take(seconds)
    assert lease is not None
    return lease


def kinds(store: JobStore, name: str) -> list[str]:
    return [str(one.kind) for one in store.events(name, 0, 1000)]


def test_items_are_taken_in_order_with_all_they_need(jobs: tuple[JobStore, JobStore]) -> None:
    one, other = jobs
    assert one.add(job("a", 2), 10)
    assert other.add(job("b"), 10)
    leases = [take(one), take(other), take(one)]
    assert [(lease.job_id, lease.number, lease.begun) for lease in leases] == [("a", 0, 1), ("a", 1, 1), ("b", 0, 1)]
    assert (leases[1].image, leases[1].noise_key, leases[1].owner) == (b"image 1", f"{1:064x}", OWNER)
    assert leases[0].recipe == '{"recipe": true}'
    assert one.take(LONG) is None
    assert one.get("a", OWNER).status == JobStatus.RUNNING


def test_an_item_is_taken_by_one_only(jobs: tuple[JobStore, JobStore]) -> None:
    jobs[0].add(job("a", 40), 10)

    def drain(store: JobStore) -> list[int]:
        found = []
        while (lease := store.take(LONG)) is not None:
            found.append(lease.number)
        return found

    with ThreadPoolExecutor(6) as pool:
        taken = list(pool.map(drain, jobs * 3))
    assert sorted(number for found in taken for number in found) == list(range(40))


def test_a_lease_that_is_over_goes_to_another_and_its_first_holder_cannot_write(
    jobs: tuple[JobStore, JobStore], stores: tuple[Store, Store]
) -> None:
    slow, fast = jobs
    slow.add(job("a"), 10)
    lost = take(slow, SHORT)
    time.sleep(3 * SHORT)
    held = take(fast)
    assert (held.number, held.begun, held.noise_key) == (0, 2, lost.noise_key)
    record = Record("c" * 32, 1.0, "{}", None)
    with pytest.raises(LeaseLost):
        slow.finish(lost, [], reply="{}", record=record)
    with pytest.raises(LeaseLost):
        slow.renew(lost, LONG, [PROGRESS])
    with pytest.raises(LeaseLost):
        slow.give_back(lost)
    assert stores[0].get(record.id) is None, "a certificate was kept that belongs to nothing"
    assert fast.finish(held, [], reply='{"mine": 1}', record=record) == JobStatus.DONE
    found = fast.get("a", OWNER)
    assert (found.status, found.items[0].reply) == (JobStatus.DONE, '{"mine": 1}')
    assert stores[1].get(record.id) == record
    assert kinds(fast, "a") == ["queued", "queued", "done"]


def test_a_lease_that_is_renewed_stays(jobs: tuple[JobStore, JobStore]) -> None:
    one, other = jobs
    one.add(job("a"), 10)
    lease = take(one, 0.5)
    one.renew(lease, LONG)
    time.sleep(0.6)
    assert other.take(LONG) is None


def test_what_is_given_back_begins_anew(jobs: tuple[JobStore, JobStore]) -> None:
    one, other = jobs
    one.add(job("a"), 10)
    lease = take(one)
    one.renew(lease, LONG, [PROGRESS])
    one.give_back(lease)
    assert kinds(one, "a") == ["queued", "queued"]
    again = take(other)
    assert (again.begun, again.noise_key, again.image) == (1, lease.noise_key, lease.image)


def test_images_and_keys_are_deleted_once_they_are_not_needed(
    jobs: tuple[JobStore, JobStore], stores: tuple[Store, Store]
) -> None:
    one, _ = jobs
    one.add(job("a", 2), 10)
    one.add(job("b", 2), 10)
    one.finish(take(one), [], problem="{}")
    one.cancel("b", OWNER)
    with stores[0].transaction() as connection:
        rows = connection.exec_driver_sql("SELECT job_id, number, image, noise_key, lease FROM job_items").all()
    kept = {(row.job_id, row.number) for row in rows if (row.image, row.noise_key) != (None, None)}
    assert kept == {("a", 1)}


@pytest.mark.parametrize("attempt", range(5))
def test_the_last_two_items_at_once_end_the_job_once(jobs: tuple[JobStore, JobStore], attempt: int) -> None:
    jobs[0].add(job("a", 2), 10)
    leases = take(jobs[0]), take(jobs[1])
    barrier = threading.Barrier(2)

    def finish(i: int) -> JobStatus | None:
        barrier.wait()
        return jobs[i].finish(leases[i], [NewEvent(EventKind.ITEM, {}, i)], reply="{}")

    with ThreadPoolExecutor(2) as pool:
        ends = list(pool.map(finish, range(2)))
    assert sorted(ends, key=str) == [None, JobStatus.DONE]
    assert kinds(jobs[0], "a") == ["queued", "item", "item", "done"]


def test_a_cancelled_job_is_nobodys(jobs: tuple[JobStore, JobStore]) -> None:
    one, other = jobs
    one.add(job("a", 3), 10)
    one.finish(take(one), [], reply="{}")
    lease = take(one)
    assert other.cancel("a", OWNER)
    assert not other.cancel("a", OWNER)
    with pytest.raises(LeaseLost):
        one.finish(lease, [], reply="{}")
    assert one.take(LONG) is None
    assert [item.status for item in one.get("a", OWNER).items] == ["done", "cancelled", "cancelled"]


def test_events_are_seen_in_the_order_of_their_numbers(jobs: tuple[JobStore, JobStore]) -> None:
    """Many write at once; a reader that goes on after what it saw never misses any."""
    jobs[0].add(job("a", 4), 10)
    leases = [take(jobs[i % 2]) for i in range(4)]
    seen: list[int] = []
    over = threading.Event()

    def read() -> None:
        while not (over.is_set() and not jobs[0].events("a", seen[-1] if seen else 0, 1)):
            seen.extend(one.number for one in jobs[0].events("a", seen[-1] if seen else 0, 7))

    def write(i: int) -> None:
        for _ in range(15):
            jobs[i % 2].renew(leases[i], LONG, [NewEvent(EventKind.STAGE, {}, i)] * 2)

    reader = threading.Thread(target=read)
    reader.start()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    over.set()
    reader.join()
    assert seen == list(range(1, 1 + 4 * 15 * 2 + 1))


def test_owners_do_not_see_one_another(jobs: tuple[JobStore, JobStore]) -> None:
    one, _ = jobs
    assert one.add(job("a", key="k"), 10)
    assert one.add(job("b", key="k", owner="other"), 10)
    assert not one.add(job("c", key="k"), 10)
    assert one.find(OWNER, "k") == ("a", "digest")
    for ask in (one.get, one.head, one.cancel):
        with pytest.raises(UnknownJobError):
            ask("b", OWNER)
    assert one.take(LONG, []) is None
    lease = one.take(LONG, ["other", "nobody"])
    assert lease is not None
    assert lease.owner == "other"
    assert one.take(LONG, ["other"]) is None
    assert one.abandoned(time.time() + 1, ["other", "nobody"]) == [("a", OWNER)]
    assert one.abandoned(time.time() - 60, []) == []


def test_owners_take_turns(jobs: tuple[JobStore, JobStore]) -> None:
    """One image each, whatever waits, and the oldest job of an owner first; some come late, and some are left out."""
    one, _ = jobs
    for name, images, owner in (("a", 5, "zoe"), ("b", 1, "ann"), ("c", 2, "ann"), ("d", 1, "bob")):
        one.add(job(name, images, owner=owner), 10)
    taken: list[tuple[str, int]] = []
    served = ""

    def serve(owners: tuple[str, ...] | None = None) -> None:
        nonlocal served
        lease = one.take(LONG, owners, served)
        assert lease is not None
        served = lease.owner
        taken.append((lease.job_id, lease.number))

    for _ in range(5):
        serve()
    assert taken == [("b", 0), ("d", 0), ("a", 0), ("c", 0), ("a", 1)]
    one.add(job("e", 2, owner="lab"), 10)
    serve(("bob", "lab", "zoe"))
    serve(("bob", "lab", "zoe"))
    assert taken[5:] == [("e", 0), ("a", 2)]
    for _ in range(4):
        serve()
    assert taken[7:] == [("c", 1), ("e", 1), ("a", 3), ("a", 4)]
    assert one.take(LONG, None, served) is None


def test_a_job_beyond_the_limit_is_not_stored(jobs: tuple[JobStore, JobStore]) -> None:
    one, _ = jobs
    one.add(job("a"), 1)
    with pytest.raises(JobLimitError):
        one.add(job("b"), 1)
    with pytest.raises(UnknownJobError):
        one.get("b", OWNER)
    one.add(job("c", owner="another"), 1)
    assert (one.unfinished(OWNER), one.unfinished("another"), one.unfinished("nobody")) == (1, 1, 0)


def test_old_jobs_are_deleted_with_all_that_belongs_to_them(
    jobs: tuple[JobStore, JobStore], stores: tuple[Store, Store]
) -> None:
    one, _ = jobs
    for name in ("a", "b", "c"):
        one.add(job(name, 2), 10)
    for _ in range(4):
        one.finish(take(one), [], reply="{}")
    assert one.trim(time.time() + 1, 1) == 1
    assert one.trim(time.time() + 1, 9) == 1
    assert one.trim(time.time() + 1, 9) == 0, "what is unfinished stays"
    with stores[0].transaction() as connection:
        for table in ("job_items", "job_events"):
            assert connection.exec_driver_sql(f"SELECT DISTINCT job_id FROM {table}").scalars().all() == ["c"]
    assert one.counts() == ({**dict.fromkeys(JobStatus, 0), JobStatus.QUEUED: 1}, 2)


def test_the_clock_is_the_databases(stores: tuple[Store, Store]) -> None:
    with stores[0].transaction() as connection:
        assert connection.scalar(select(stores[0].now)) == pytest.approx(time.time(), abs=5.0)
