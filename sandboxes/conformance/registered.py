"""What `python -m sandboxes.conformance` collects; the fixture `backend` comes from there."""

from sandboxes.conformance import ConformanceTests


class TestRegistered(ConformanceTests):
    """The kit on an executor that is known by name."""
