"""What really holds a block on this machine: every claim is tried, and what fails comes with what to type.

    diagnosis = await diagnose()
    print(diagnosis.default, diagnosis.isolated)

`agentexec doctor` prints the same.
"""

from sandboxes.doctor.examine import CANDIDATES, Candidate, diagnose
from sandboxes.doctor.report import BackendReport, Diagnosis, Finding, Machine

__all__ = ["CANDIDATES", "BackendReport", "Candidate", "Diagnosis", "Finding", "Machine", "diagnose"]
