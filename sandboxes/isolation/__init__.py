"""Mechanisms that hold a process on this machine."""
