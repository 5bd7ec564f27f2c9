"""Claims: one owner at a time; dead claims are taken over."""

import multiprocessing
import os
import threading
from pathlib import Path
from typing import NamedTuple

from data_prep.workers.claims import Claims, TaskQueue, claim_of
from ldm.support.files import atomic_write, is_gone, remove_leftovers, writer

CONTEXT = multiprocessing.get_context("spawn")


class Thing(NamedTuple):
    target: Path


def die_with_a_claim(target: Path) -> None:
    assert Claims().take(target)
    target.with_name(f".{target.name}.{writer()}.partial").touch()
    os._exit(9)


def test_a_claim_has_one_owner_until_it_is_given_up(tmp_path: Path) -> None:
    target = tmp_path / "a.h5"
    with Claims() as one, Claims() as other:
        assert one.take(target)
        assert not other.take(target)
        one.release(target)
        assert other.take(target)
    assert list(tmp_path.iterdir()) == []


def test_the_claim_of_a_dead_process_is_taken_over_with_what_it_left(tmp_path: Path) -> None:
    target = tmp_path / "a.h5"
    process = CONTEXT.Process(target=die_with_a_claim, args=(target,))
    process.start()
    process.join()
    assert len(list(tmp_path.iterdir())) == 2
    with Claims() as claims:
        assert claims.take(target)
        assert list(tmp_path.iterdir()) == [claim_of(target)]


def test_a_claim_from_elsewhere_is_dead_once_its_heart_has_stopped(tmp_path: Path) -> None:
    target = tmp_path / "a.h5"
    claim_of(target).write_text("0badcafe-1-1 elsewhere\n")
    with Claims(dead_s=0.05) as claims:
        assert not claims.take(target)  # seen for the first time
        os.utime(claim_of(target), (1, 1))
        assert not claims.take(target)  # it has changed
        threading.Event().wait(0.1)
        assert claims.take(target)


def test_a_living_owner_touches_its_claim(tmp_path: Path) -> None:
    target = tmp_path / "a.h5"
    with Claims(heartbeat_s=0.01) as claims:
        claims.take(target)
        os.utime(claim_of(target), (1, 1))
        for _ in range(500):
            if claim_of(target).stat().st_mtime > 1:
                break
            threading.Event().wait(0.01)
        assert claim_of(target).stat().st_mtime > 1


def test_two_that_share_tasks_do_each_of_them_once(tmp_path: Path) -> None:
    tasks = [Thing(tmp_path / f"{number}.h5") for number in range(20)]
    done: list[str] = []

    def labour(claims: Claims) -> None:
        work = TaskQueue(tasks, claims, poll_s=0.01)
        for task in work:
            if not task.target.exists():
                done.append(task.target.name)
                task.target.touch()
            work.done(task)

    with Claims() as one, Claims() as other:
        threads = [threading.Thread(target=labour, args=(claims,)) for claims in (one, one, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(done) == sorted(task.target.name for task in tasks)
    assert not list(tmp_path.glob(".*"))


def test_leftovers_are_those_of_the_dead(tmp_path: Path) -> None:
    process = CONTEXT.Process(target=die_with_a_claim, args=(tmp_path / "sub" / "a.h5",))
    process.start()
    process.join()
    with atomic_write(tmp_path / "b.txt") as partial:
        partial.touch()
        remove_leftovers(tmp_path)
        assert partial.exists()
    assert not list(tmp_path.rglob("*.partial"))
    assert not is_gone(writer())
    assert not is_gone("0badcafe-1-1")
