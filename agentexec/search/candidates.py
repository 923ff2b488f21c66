"""What a search tells of: its candidates, and the best of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

from agentexec.models.base import Usage
from agentexec.result import SolveResult
from agentexec.search.scoring import Score

SearchStop = Literal["target", "exhausted", "max_cost", "max_tokens", "deadline"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One of the runs.

    Attributes:
        number: From 1, in the order in which they were planned.
        run_id: Of the run; empty if it never began.
        parent: Number of the candidate that it goes on from, or None.
        depth: Steps it is from the start, 1 for the first.
        result: What came of the run; None if it was not finished.
        score: None if it was not scored.
        cost: USD spent on it alone, or None if the price of a call is unknown.
        usage: Tokens of it alone, as far as they were counted.
        error: Why there is no result or no score; empty if there are.
    """

    number: int
    run_id: str = ""
    parent: int | None = None
    depth: int = 1
    result: SolveResult | None = None
    score: Score | None = None
    cost: Decimal | None = Decimal(0)
    usage: Usage = field(default_factory=Usage)
    error: str = ""

    @property
    def passed(self) -> bool:
        """Whether it was scored, and will do."""
        return self.score is not None and self.score.passed

    @property
    def rank(self) -> tuple[bool, float, bool, int]:
        """Sorts candidates: what passes, then what scores higher, then what has an answer, then what came first."""
        solved = self.result is not None and self.result.solved
        return self.passed, -math.inf if self.score is None else self.score.value, solved, -self.number


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What came of a search.

    Attributes:
        candidates: All of them, by number.
        best: The one with the highest rank that passed; None if none did.
        stop_reason: `target` (one reached it), `exhausted` (all were tried), or the budget that was used up.
        cost: USD of all candidates together, or None if the price of a call is unknown.
        usage: Tokens of all of them.
    """

    candidates: tuple[Candidate, ...]
    best: Candidate | None
    stop_reason: SearchStop
    cost: Decimal | None
    usage: Usage

    @property
    def message(self) -> str:
        """What happened, in a line."""
        if self.best is not None and self.best.score is not None:
            score = f"{self.best.score.value:g}"
            return f"candidate {self.best.number} of {len(self.candidates)} is the best, with score {score}"
        reasons = sorted({each.error or "it does not pass" for each in self.candidates})
        return f"none of {len(self.candidates)} candidates passes ({self.stop_reason}): {'; '.join(reasons)}"
