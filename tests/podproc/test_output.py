"""The store of long outputs."""

from __future__ import annotations

from pathlib import Path

from podproc.tools.output import OutputStore


def sizes(folder: Path) -> list[int]:
    return [file.stat().st_size for file in sorted(folder.iterdir())]


def test_the_oldest_files_make_room_and_the_total_never_passes_the_limit(tmp_path: Path) -> None:
    store = OutputStore(str(tmp_path / "out"), limit=1000)
    for _ in range(10):
        output = store.create()
        store.append(output, b"x" * 300)
        store.finish(output)
        assert sum(sizes(tmp_path / "out")) <= 1000
    assert sizes(tmp_path / "out") == [300, 300, 300]


def test_a_file_being_written_stays_and_what_has_no_room_is_counted(tmp_path: Path) -> None:
    store = OutputStore(str(tmp_path / "out"), limit=1000)
    first, second = store.create(), store.create()
    store.append(first, b"x" * 900)
    store.append(second, b"y" * 300)
    assert (first.dropped, second.dropped) == (0, 200)
    store.finish(first)
    store.append(second, b"y" * 300)
    assert second.dropped == 200
    assert sizes(tmp_path / "out") == [400]
    store.finish(second)


def test_a_file_that_a_person_has_removed_makes_room_like_any_other(tmp_path: Path) -> None:
    store = OutputStore(str(tmp_path), limit=1000)
    first, second = store.create(), store.create()
    store.append(first, b"x" * 900)
    store.finish(first)
    Path(first.path).unlink()
    store.append(second, b"y" * 300)
    assert sizes(tmp_path) == [300]
    store.finish(second)


def test_files_of_an_earlier_process_count(tmp_path: Path) -> None:
    (tmp_path / "1000-old.txt").write_bytes(b"x" * 800)
    store = OutputStore(str(tmp_path), limit=1000)
    output = store.create()
    store.append(output, b"y" * 100)
    assert (tmp_path / "1000-old.txt").exists()
    store.append(output, b"y" * 200)
    assert not (tmp_path / "1000-old.txt").exists()
    store.finish(output)
    assert tmp_path.stat().st_mode & 0o777 == 0o700
