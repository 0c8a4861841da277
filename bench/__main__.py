"""The benchmark: our gateway beside real ones, in one run, in turns, each bound to the same core.

    make bench                all rows, about ten minutes
    QUICK=1 make bench        fewer and shorter rounds, under 90 seconds
    python -m bench --only plain,full --rounds 5 --seconds 4 --out build/bench

Prints the tables and writes `bench.md` and `bench.json` to the folder of `--out`. Peers that are not installed are
named as missing. The figure to compare is requests per CPU-second of the gateway's processes, inside one run only.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import traceback
from contextlib import AsyncExitStack
from pathlib import Path

from bench import peers
from bench.machine import describe
from bench.results import Report
from bench.rows import ROWS, Bench

QUICK = bool(os.environ.get("QUICK"))
PEERS = (peers.nginx, peers.haproxy, peers.caddy, peers.naive)


async def main(options: argparse.Namespace) -> int:
    wanted = options.only.split(",") if options.only else [name for name, row in ROWS.items() if row.quick or not QUICK]
    unknown = [name for name in wanted if name not in ROWS]
    if unknown:
        print(f"no such row: {', '.join(unknown)}; there are {', '.join(ROWS)}", file=sys.stderr)
        return 2
    failed = False
    report = Report(describe(), options.rounds)
    with tempfile.TemporaryDirectory(prefix="aiogate-bench-") as made:
        home = Path(made)
        async with AsyncExitStack() as stack:
            bench = Bench(
                home, report, options.rounds, options.seconds, await stack.enter_async_context(peers.upstream(home))
            )
            for peer in PEERS:
                await bench.start(stack, peer(home, bench.upstream))
            for name in wanted:
                print(f"{name} …", file=sys.stderr, flush=True)
                try:
                    await ROWS[name].run(bench)
                except Exception as error:
                    failed = True
                    traceback.print_exc()
                    report.missing.append(f"the row {name} broke off: {type(error).__name__}: {error}")
    bench.judge()
    text = report.markdown()
    print(text)
    folder: Path = options.out
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bench.md").write_text(text)
    (folder / "bench.json").write_text(report.json())
    return 1 if failed else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench")
    parser.add_argument("--only", default="", help=f"rows, separated by commas: {', '.join(ROWS)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1 if QUICK else 3, help="of load in each round")
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(asyncio.run(main(arguments())))
