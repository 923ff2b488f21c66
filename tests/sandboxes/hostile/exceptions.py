"""What a backend does not contain, or contains by not having it at all; each with its reason.

A case of a sandbox that is named here must fail as it stands: one that passes after all is an error, so the table
cannot grow stale. A kernel's cases are skipped: many of them would only wait for their limit of time.
README and `Isolation` say the same to users.
"""

from __future__ import annotations

import os

from tests.sandboxes.backends import KERNELS

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

NOT_ON_KERNELS = {
    "test_landlock": "kernels need a directory that they share, which landlock does not give",
}
"""Modules of which no body runs on kernels."""
_SAME = "what differs from `docker` is the kernel, and from `jupyter` the container: both rows run it"
NOT_ON_KERNELS_IN_CONTAINERS = {
    "test_kernel_surface": f"{_SAME}; system calls are the container's",
    "test_output": f"{_SAME}; output is bounded by the same runner",
    "test_persistence": f"{_SAME}; what a kernel keeps is the same",
}
"""Modules that `jupyter+docker` leaves out, to keep the suite short. What a container and a kernel bound together is
run: memory, disk, time, processes, files, secrets, the network, and the owner's death."""

AS_VALUE = "a cell's error is a value (`Result.error`) and not on stderr"
NO_FILE = "a cell is no file: it has no __file__, and its error is a value and not on stderr"
ONE_PROCESS = "a cell runs in the process of its kernel: what ends or breaks that costs the kernel, and is no success"
SOCKETS = "a cell runs in the process of its kernel, whose sockets, files and variables of its own are there"
MAGIC = "a shell is a magic of the kernel, which says on stdout that it was interrupted"
MESSAGE = "an error that is larger than a message is told as such, and none is on stderr"
_KERNEL_ROWS = {
    "test_planted_names_do_not_stop_the_next_block": NO_FILE,
    "test_block_that_replaces_its_own_file_harms_nobody": NO_FILE,
    "test_shell_sleeping_for_ever_times_out": MAGIC,
    "test_thread_bomb_is_capped": ONE_PROCESS,
    "test_deep_recursion_is_failed": AS_VALUE,
    "test_frames_to_every_descriptor_reach_nobody": SOCKETS,
    "test_no_descriptor_is_inherited": SOCKETS,
    "test_environment_holds_nothing_of_the_host": SOCKETS,
    "test_traceback_of_100_megabytes_is_bounded": MESSAGE,
    "test_exception_in_a_hook_of_an_object_is_reported": AS_VALUE,
    "test_broken_interpreter_harms_only_itself[sys.modules.clear()]": ONE_PROCESS,
    "test_broken_interpreter_harms_only_itself[sys.stdout = None; sys.stderr = None]": ONE_PROCESS,
    "test_broken_interpreter_harms_only_itself[sys.stdout = object()]": ONE_PROCESS,
}
EXCEPTIONS |= {(kernel.name, test): why for test, why in _KERNEL_ROWS.items() for kernel in KERNELS}


def reason(backend: str, test: str) -> str | None:
    """Return why a backend does not pass a test; None where it has to.

    Args:
        backend: Its name.
        test: Name of the test, as pytest has it.
    """
    function, _, parameters = test.partition("[")
    rest = "-".join(part for part in parameters.rstrip("]").split("-") if part != backend)
    return EXCEPTIONS.get((backend, function)) or EXCEPTIONS.get((backend, f"{function}[{rest}]"))
