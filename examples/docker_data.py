"""A data task in a container: a file goes in, a figure and a plot come out.

Needs a Docker engine with the image `agentexec/data` (`agentexec images build data`).
"""

import asyncio
from pathlib import Path

from sandboxes import CodeBlock, Limits, open_executor

HERE = Path(__file__).parent
CODE = """
import matplotlib.pyplot as plt
import pandas as pd

table = pd.read_csv("sunspots.csv")
year, spots = table.columns[:2]
decades = table.groupby(table[year] // 10 * 10)[spots].mean()
decades.plot(kind="bar", figsize=(10, 3), title="Mean sunspot number by decade")
plt.savefig("decades.png", bbox_inches="tight")
print(f"{len(table)} rows, {len(decades)} decades, the most spots in the {decades.idxmax():.0f}s")
"""


def save(path: str, data: bytes) -> None:
    # The name comes out of the sandbox; only its last part is taken.
    Path(Path(path).name).write_bytes(data)


async def main() -> None:
    limits = Limits(memory="1G", wall_time=60)
    async with open_executor("docker:agentexec/data", limits=limits, cpus=1) as executor:
        await executor.put("sunspots.csv", (HERE / "sunspots" / "sunspots.csv").read_bytes())
        result = await executor.run(CodeBlock(CODE))
        print(result.verdict, result.stdout or result.stderr, end="")
        for file in result.files:
            save(file.path, await executor.get(file.path))
            print(f"wrote {file.path}: {file.media_type}, {file.size} bytes")


if __name__ == "__main__":
    asyncio.run(main())
