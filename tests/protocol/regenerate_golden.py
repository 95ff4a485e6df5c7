"""Write the golden files again: `python -m tests.protocol.regenerate_golden`.

Refuses unless the change was meant: `tests.protocol.samples.REVISION` or `protocol.wire.VERSION`
must be greater than what the files were written at.
"""

from __future__ import annotations

import sys

from tests.protocol import golden


def main() -> int:
    """Write the files; returns 1 when neither number was raised."""
    now = golden.versions_now()
    if golden.VERSIONS.exists():
        then = golden.read_versions()
        if (now["version"], now["revision"]) <= (then["version"], then["revision"]):
            print(
                f"the golden files are of {then}: raise REVISION in tests/protocol/samples.py, or"
                " VERSION in protocol/wire.py where older readers would misunderstand",
                file=sys.stderr,
            )
            return 1
    golden.FOLDER.mkdir(exist_ok=True)
    texts = golden.render()
    for path in golden.FOLDER.glob("*.json"):
        if path.name not in texts:
            path.unlink()
    for name, text in texts.items():
        (golden.FOLDER / name).write_text(text)
    print(f"{len(texts)} files written at {now}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
