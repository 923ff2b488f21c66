"""Four turns on one kernel: load the data, look at it, plot it, refine the plot. Needs no model: it was recorded.

    python examples/kernel/conversation.py [jupyter|jupyter+docker] [NOTEBOOK]

What the coder has computed stays in the kernel from turn to turn. The run ends up in a notebook as well.
"""

import asyncio
import sys
from pathlib import Path

import nbformat

from agentexec import Event, solve
from agentexec.events import BlockFinished
from agentexec.notebook import notebook_of

HERE = Path(__file__).parent
TASK = "Show how the number of sunspots goes up and down, and say how long a cycle takes."


def show(event: Event) -> None:
    if isinstance(event, BlockFinished):
        result = event.result
        shown = [result.stdout.strip(), *(display.data.get("text/plain", "") for display in result.displays)]
        pictures = [file.path for file in result.files if file.media_type.startswith("image/")]
        print(f"turn {event.turn}: {result.verdict}:", " ".join(filter(None, [*shown, *pictures])))


async def main(sandbox: str = "jupyter", notebook: str = "sunspots.ipynb") -> None:
    result = await solve(
        TASK,
        model=f"replay:{HERE / 'recorded.jsonl'}",
        executor=sandbox,
        files=[HERE.parent / "sunspots" / "sunspots.csv"],
        plan=False,
        review=False,
        on_event=show,
    )
    print(result.status, "-", result.answer or result.message)
    nbformat.write(notebook_of(result.events), notebook)  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
