"""`python -m podproc.escapes [--level namespaces|landlock] [-o json]`: see the package."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from podproc.confine.support import look
from podproc.escapes.run import Row, Total, levels_of, run_level
from podproc.tools.keeper_client import KeeperError
from protocol.cage import CageLevel, CageSupport


def main(argv: Sequence[str] | None = None) -> int:
    """Make the attempts and print what came of them; 0 where the cage holds what it promises."""
    parser = argparse.ArgumentParser(prog="python -m podproc.escapes", description=__doc__)
    levels = [CageLevel.NAMESPACES.value, CageLevel.LANDLOCK.value]
    parser.add_argument("--level", choices=levels, help="this one only; else all there are")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text")
    options = parser.parse_args(argv)
    support = CageSupport.found(look())
    possible = levels_of(support)
    wanted = possible if options.level is None else [CageLevel(options.level)]
    if not wanted or not set(wanted) <= set(possible):
        print(f"this machine cannot do that: {'; '.join(support.missing)}", file=sys.stderr)
        return 1
    user = "root" if os.geteuid() == 0 else f"uid {os.geteuid()}"
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # and clean up
    try:
        found = {level: run_level(level, support) for level in wanted}
    except (OSError, KeeperError) as error:
        print(f"attempts could not be made: {error!r}", file=sys.stderr)
        return 1
    total = Total.of(found.values())
    if options.output == "json":
        told = [
            {"level": level.value, "user": user, "rows": [asdict(row) for row in rows]}
            for level, rows in found.items()
        ]
        print(json.dumps({"levels": told, "sum": asdict(total), "line": total.line()}))
    else:
        for level, rows in found.items():
            print("\n".join(table(f"{level}, {user}", rows)))
        print(total.line())
    return 0 if all(row.is_good for rows in found.values() for row in rows) else 1


def table(head: str, rows: Sequence[Row]) -> Iterator[str]:
    """Yield the lines of a table."""
    cells = [("attempt", "what", "inside", "outside"), *map(_cells, rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(3)]
    yield f"-- {head}"
    for row in cells:
        start = "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=False))
        yield f"{start}  {row[3]}"


def _cells(row: Row) -> tuple[str, str, str, str]:
    outside = f"{row.outside} (told: {row.told})" if row.told else row.outside
    one_line = (text.replace("\n", " | ") for text in (row.inside, outside))
    inside, outside = one_line
    return row.name, row.what, inside, outside


if __name__ == "__main__":
    sys.exit(main())
