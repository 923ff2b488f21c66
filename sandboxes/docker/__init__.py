"""The Docker sandbox: one warm container per sandbox, and the images it can use."""

from sandboxes.docker.sandbox import DockerSandbox, docker_executor

__all__ = ["DockerSandbox", "docker_executor"]
