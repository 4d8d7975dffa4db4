"""What exit codes mostly mean: a hint for whoever looks for the cause, never a verdict."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

HINTS: Mapping[int, str] = MappingProxyType(
    {
        126: "the program was found but could not be run: it may lack the x permission, or be no program for this machine",
        127: "the command was not found: no such program on the PATH of the task, or a library or script interpreter that is missing",
        129: "it got SIGHUP: mostly a parent process that ended before it",
        130: "it got SIGINT, as by Ctrl-C or by a program that passes it on",
        132: "illegal instruction: the program was built for another processor",
        134: "it aborted itself: an assertion or an uncaught error; stderr mostly says which",
        135: "bus error: often a disk or /dev/shm that is full, or a mapped file that became shorter",
        136: "arithmetic error, such as an integer division by zero",
        137: "killed, often for its memory: by the kernel, or by the limit of its node",
        139: "segmentation fault: a bug of the program or of a library, or too small a stack",
        141: "it wrote into a pipe that nobody read any more",
        143: "it was told to end (SIGTERM): by itself, by a program beside it, or because its machine went",
        152: "it used more processor time than it may (ulimit -t)",
        153: "it wrote a file larger than it may (ulimit -f)",
    }
)
"""By exit code; 128 + n stands for signal n."""


def told(exit_code: int) -> str:
    """`exit code 137 (killed, often …)`, or the code alone where that says nothing."""
    hint = HINTS.get(exit_code)
    return f"exit code {exit_code}" + (f" ({hint})" if hint else "")
