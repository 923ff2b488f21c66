"""What holds where nothing is said, for those who use it and those who tell of it."""

from __future__ import annotations

MAX_TURNS = 50
"""Messages after the task that a run may have."""
