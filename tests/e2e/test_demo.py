"""What a newcomer tries first: scripts/demo, and the examples, with nothing set up."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.home import Home
from tests.support.leftovers import processes_of

PROJECT = Path(__file__).parents[2]
PATIENCE_S = 50


@pytest.mark.process
def test_the_demo_shows_the_fleet_at_work_and_leaves_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [PROJECT / "scripts/demo"],
        env={"HOME": str(tmp_path), "PATH": os.defpath},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        start_new_session=True,  # no terminal, either
    )
    said = done.stdout

    assert done.returncode == 0, said + done.stderr
    assert done.stderr == ""
    for words in (
        "$ podsup start -d --wait idle\nfleet three-pods is up",
        '$ podsup run alice "What did you write?" --wait\nA note in out/alice/note.txt',
        "$ cat out/alice/note.txt\nI am alice, a pod of the fleet three-pods",
        "$ cat out/bob/words.txt\n      8 a\n",
        "$ podsup down\nfleet three-pods is down",
        "nothing is left: no process, no socket",
    ):
        assert words in said, f"{words!r} is not in:\n{said}"
    for pod in ("alice", "bob", "carol"):
        assert re.search(rf"^{pod} +idle +\d+ ", said, re.MULTILINE), said

    (root,) = set(re.findall(r"/tmp/psd\.\w+", said))
    assert not Path(root).exists()
    assert processes_of(Path(root)) == {}
    assert list(tmp_path.iterdir()) == [], "something was written into the user's home"


@pytest.mark.parametrize("example", sorted(path.name for path in (PROJECT / "examples").iterdir()))
def test_an_example_is_a_valid_fleet_file_and_is_explained(home: Home, example: str) -> None:
    folder = PROJECT / "examples" / example

    checked = home.podsup("check", str(folder / "podsup.toml"))

    assert f"fleet {example}" in checked.stdout
    assert "not available in this version" not in checked.stderr
    assert (folder / "README.md").exists()
