"""The command `agentexec`, and `python -m agentexec`."""

import signal


def main() -> None:
    """Run the command line."""
    quiet = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if quiet:  # Ctrl-C while modules are being loaded ends us as it ends any program, and not with a traceback
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from agentexec.cli import main as run

    if quiet:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


if __name__ == "__main__":
    main()
