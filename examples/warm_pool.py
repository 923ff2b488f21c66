"""Many short jobs over a few warm containers. Every job finds an empty workspace, and none waits for a start.

Needs a Docker engine with the image `agentexec/python`; with "local" instead of "docker" it needs none.
"""

import asyncio
import sys
import time

from sandboxes import CodeBlock, Limits, Pool


async def job(pool: Pool, number: int) -> str:
    async with pool.take(timeout=30) as executor:
        result = await executor.run(CodeBlock(f"print(sum(x * x for x in range({number})))"))
        return result.stdout.strip()


async def main() -> None:
    spec = sys.argv[1] if len(sys.argv) > 1 else "docker"
    # Reused executors are emptied between jobs; without `reuse`, each job gets a new container.
    async with Pool(spec, 4, reuse=True, limits=Limits(memory="256M", wall_time=10)) as pool:
        started = time.perf_counter()
        answers = await asyncio.gather(*(job(pool, number) for number in range(100)))
        print(f"{len(answers)} jobs in {time.perf_counter() - started:.1f} s; the last says {answers[-1]}")


if __name__ == "__main__":
    asyncio.run(main())
