"""What is seen of a pipeline at work: one bar over all its notebooks, a line as each ends."""

import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipeline.execution.fresh import facts
from pipeline.plan.stages import Stage


def watch(process: "subprocess.Popen[bytes]", todo: list[Stage], results: Path) -> None:
    """Show one bar over all notebooks, and a line as each of them ends, until Snakemake does."""
    started, seen = time.time(), set(_markers(results, "done"))
    before = sum(stage.seconds for stage in todo if stage.name in seen)
    layout = "{percentage:3.0f}% |{bar:24}| {desc} [{elapsed} gone, {remaining} left]"
    total = sum(stage.seconds for stage in todo)
    with tqdm(total=total, initial=before, bar_format=layout, file=sys.stdout, disable=None) as bar:
        while process.poll() is None:
            time.sleep(1)
            done, running = _markers(results, "done"), _markers(results, "running")
            for name in sorted(set(done) - seen, key=lambda n: done[n].get("seconds", 0)):
                minutes, seconds = divmod(int(time.time() - started), 60)
                line = f"{minutes:3d}:{seconds:02d}  {name} ({done[name]['seconds']:.0f} s)"
                tqdm.write(line, file=sys.stdout)
                sys.stdout.flush()
            seen |= set(done)
            bar.n = sum(_progress(stage, done, running) for stage in todo)
            finished = sum(stage.name in done for stage in todo)
            bar.set_description_str(f"{finished}/{len(todo)} notebooks; {', '.join(running)}")


def _progress(stage: Stage, done: Mapping[str, Any], running: Mapping[str, Any]) -> float:
    """Guessed seconds of work behind us; a stage that runs longer than guessed waits at 95 %."""
    if stage.name in done:
        return stage.seconds
    gone = time.time() - running.get(stage.name, {}).get("started", time.time())
    return min(gone, 0.95 * stage.seconds)


def _markers(results: Path, kind: str) -> dict[str, Mapping[str, Any]]:
    """The markers of this kind by stage; one that vanishes while we look is left out."""
    names = sorted(path.stem for path in (results / kind).glob("*.json"))
    return {name: found for name in names if (found := facts(results, kind, name))}
