"""What a backend does not contain, or contains by not having it at all; each with its reason.

A case that is named here must fail as it stands: one that passes after all is an error, so the table cannot grow stale.
README and `Isolation` say the same to users.
"""

from __future__ import annotations

import os

NO_SHARED_MEMORY = "/dev/shm is the machine's own, so blocks may not write to it: there is nothing to fill"
NO_SEGMENTS = "System V memory would be the machine's own, so it is refused: there is nothing to fill"
NO_SOCKETS = "the network is the machine's own, so blocks have no sockets at all but connected pairs"
NAMES = "Landlock hides what is in a file and in a directory, but not whether a file of a known name exists"
NO_TMP = "/tmp is the machine's own; blocks have another directory in TMPDIR (see test_landlock.py)"
SAME_USER = "without namespaces a block has its caller's user id; root's has no capabilities"

EXCEPTIONS: dict[tuple[str, str], str] = {
    ("landlock", "test_way_out_through_a_directory_descriptor_is_closed"): NAMES,
    ("landlock", "test_files_of_the_host_are_not_there"): NAMES,
    ("landlock", "test_other_runs_are_not_visible"): NAMES,
    ("landlock", "test_memory_limit_holds_the_whole_tree[shared memory]"): NO_SHARED_MEMORY,
    ("landlock", "test_memory_limit_holds_the_whole_tree[shared memory in many files]"): NO_SHARED_MEMORY,
    ("landlock", "test_memory_limit_holds_the_whole_tree[System V segments]"): NO_SEGMENTS,
    ("landlock", "test_memory_of_the_host_is_free_again"): NO_SHARED_MEMORY,
    ("landlock", "test_filling_a_temporary_directory_is_disk[/tmp/a]"): NO_TMP,
    ("landlock", "test_filling_a_temporary_directory_is_disk[/var/tmp/a]"): NO_TMP,
    ("landlock", "test_only_a_loopback_of_its_own_is_there"): NO_SOCKETS,
    ("landlock", "test_listening_inside_is_not_reachable_from_the_host"): NO_SOCKETS,
    ("landlock", "test_two_sandboxes_do_not_see_each_other"): NO_SOCKETS,
    ("landlock", "test_sockets_of_the_block_itself_work"): NO_SOCKETS,
}
if os.geteuid() == 0:
    EXCEPTIONS |= {
        ("landlock", "test_set_uid_programs_give_nothing"): SAME_USER,
        ("landlock", "test_kernel_memory_layout_is_hidden[/proc/vmallocinfo]"): f"{SAME_USER}, but owns files in /proc",
    }


def reason(backend: str, test: str) -> str | None:
    """Return why a backend does not pass a test; None where it has to.

    Args:
        backend: Its name.
        test: Name of the test, as pytest has it.
    """
    function, _, parameters = test.partition("[")
    rest = "-".join(part for part in parameters.rstrip("]").split("-") if part != backend)
    return EXCEPTIONS.get((backend, function)) or EXCEPTIONS.get((backend, f"{function}[{rest}]"))
