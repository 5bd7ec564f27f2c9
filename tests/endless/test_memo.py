"""Results by key: computed once, kept in memory and on disk within bounds, and never taken from a damaged file."""

import shutil
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ldm.endless.folder_cache import FolderCache
from ldm.endless.memo import Key, Memo


def at(number: int) -> Key:
    return Key("x", "20x", 0, 0, number)


def tensor(number: int) -> Tensor:
    return torch.full((256,), float(number))


class Maker:
    """Counts what is computed."""

    def __init__(self) -> None:
        self.made: list[int] = []

    def __call__(self, key: Key) -> Tensor:
        self.made.append(key.col)
        return tensor(key.col)


def test_a_result_is_computed_once() -> None:
    memo, make = Memo(), Maker()
    for _ in range(3):
        found = memo.all([at(1), at(2)], make)
        assert [int(each[0]) for each in found] == [1, 2]
    assert make.made == [1, 2]


def test_memory_is_bounded_and_the_latest_stay() -> None:
    memo, make = Memo(limit=3 * tensor(0).nbytes), Maker()
    memo.all([at(number) for number in range(5)], make)
    memo.all([at(4), at(3), at(2)], make)
    assert make.made == [0, 1, 2, 3, 4]
    memo.all([at(0)], make)
    assert make.made == [0, 1, 2, 3, 4, 0]


def test_threads_share_the_work() -> None:
    memo, make, keys = Memo(), Maker(), [at(number) for number in range(40)]
    threads = [threading.Thread(target=memo.all, args=(keys, make)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(make.made) == list(range(40))


def test_a_failure_reaches_all_who_wait_and_the_next_tries_again() -> None:
    memo = Memo()

    def fail() -> Tensor:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        memo.get(at(1), fail)
    assert torch.equal(memo.get(at(1), lambda: tensor(1)), tensor(1))


def test_results_outlive_the_process(tmp_path: Path) -> None:
    Memo(FolderCache(tmp_path, "a")).get(at(-1), lambda: tensor(7))
    later, make = Memo(FolderCache(tmp_path, "a")), Maker()
    assert torch.equal(later.get(at(-1), lambda: make(at(-1))), tensor(7))
    assert make.made == []
    assert FolderCache(tmp_path, "b").read(at(-1)) is None


@pytest.mark.parametrize("place", [0, 9, 200, -1])
def test_a_damaged_file_is_computed_again(tmp_path: Path, place: int) -> None:
    cache = FolderCache(tmp_path, "a")
    cache.write(at(1), tensor(1))
    (path,) = tmp_path.glob("a/*.safetensors")
    content = bytearray(path.read_bytes())
    content[place] ^= 16
    path.write_bytes(content)
    assert cache.read(at(1)) is None
    path.write_bytes(content[: len(content) // 2])
    assert cache.read(at(1)) is None
    assert torch.equal(Memo(cache).get(at(1), lambda: tensor(1)), tensor(1))
    assert torch.equal(FolderCache(tmp_path, "a").read(at(1)), tensor(1))


def test_a_file_under_another_name_is_not_taken(tmp_path: Path) -> None:
    cache = FolderCache(tmp_path, "a")
    cache.write(at(1), tensor(1))
    (tmp_path / "a" / "x_20x_0_0_1.safetensors").rename(tmp_path / "a" / "x_20x_0_0_2.safetensors")
    assert cache.read(at(2)) is None


def test_a_file_of_another_world_or_of_other_numbers_is_not_taken(tmp_path: Path) -> None:
    other, cache = FolderCache(tmp_path, "b"), FolderCache(tmp_path, "a")
    for number in range(2):
        other.write(at(number), tensor(number))
    shutil.copytree(tmp_path / "b", tmp_path / "a")
    assert cache.read(at(0)) is None
    save_file({"value": tensor(1).bfloat16()}, tmp_path / "a" / "x_20x_0_0_1.safetensors")
    assert cache.read(at(1)) is None


def test_the_folder_is_bounded_over_all_worlds(tmp_path: Path) -> None:
    first = FolderCache(tmp_path, "a")
    first.write(at(0), tensor(0))
    size = next(tmp_path.glob("a/*")).stat().st_size
    first.write(at(1), tensor(1))
    second = FolderCache(tmp_path, "b", limit=3 * size)
    for number in range(2):
        second.write(at(number), tensor(number))
    kept = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/*"))
    assert kept == ["a/x_20x_0_0_1.safetensors", "b/x_20x_0_0_0.safetensors", "b/x_20x_0_0_1.safetensors"]


def test_a_disk_that_refuses_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a").write_text("a file where the folder should be")
    memo = Memo(FolderCache(tmp_path, "a"))
    for number in range(3):
        assert torch.equal(memo.get(at(number), lambda number=number: tensor(number)), tensor(number))
    assert capsys.readouterr().err.count("nothing more is kept") == 1
