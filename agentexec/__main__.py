"""`python -m agentexec`."""

from agentexec.cli import main

if __name__ == "__main__":
    main()
