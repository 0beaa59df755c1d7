"""The filter that lets a process make the system calls of `calls` and no others.

A seccomp filter is a program of the kernel's packet filter: instructions (operation, lines to skip
if true, lines to skip if false, operand) over the number, architecture and arguments of a call.
"""

import ctypes
import os
import struct
from collections.abc import Iterable

from calls import ALLOWED, ARGUMENTS, NOT_THERE_FROM, WITH_NAMESPACES, Call, Check
from isolation import NO_NEW_PRIVS, NOT_IMPLEMENTED, libc

PERMISSION = 1  # EPERM
SECCOMP, SECCOMP_FILTER = 22, 2  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER

# Per machine: its name for seccomp (AUDIT_ARCH_...) and the column of `calls` that is its.
MACHINES = {"x86_64": (0xC000003E, 1), "aarch64": (0xC00000B7, 2)}

LOAD, AND, RETURN = 0x20, 0x54, 0x06
IF_EQUAL, IF_GREATER, IF_AT_LEAST = 0x15, 0x25, 0x35
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16  # offsets of these; an argument has 8 bytes
ALLOW, FAIL_WITH = 0x7FFF0000, 0x00050000  # FAIL_WITH | an error number

Instruction = tuple[int, int, int, int]
ALLOWED_HERE = (RETURN, 0, 0, ALLOW)
DENIED = (RETURN, 0, 0, FAIL_WITH | PERMISSION)
NOT_THERE = (RETURN, 0, 0, FAIL_WITH | NOT_IMPLEMENTED)


def forbid_calls(namespaces: bool) -> None:
    """Make other system calls fail from here on; OSError where their numbers are not known."""
    machine = os.uname().machine
    if machine not in MACHINES:
        raise OSError(NOT_IMPLEMENTED, f"seccomp: no system call numbers for {machine}")
    calls = ALLOWED + WITH_NAMESPACES if namespaces else ALLOWED
    instructions = program(machine, calls)
    code = b"".join(struct.pack("<HBBI", *instruction) for instruction in instructions)
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("<H6xQ", len(instructions), ctypes.addressof(buffer))
    libc("prctl", NO_NEW_PRIVS, 1, 0, 0, 0)
    libc("prctl", SECCOMP, SECCOMP_FILTER, header, 0, 0)


def program(machine: str, calls: tuple[Call, ...]) -> list[Instruction]:
    """The filter that allows these calls with the arguments of `calls.ARGUMENTS`."""
    architecture, column = MACHINES[machine]
    numbers = {call[0]: call[column] for call in calls if call[column] >= 0}
    # A process may use the calls of other architectures, whose numbers mean something else.
    instructions = [(LOAD, 0, 0, ARCHITECTURE), (IF_EQUAL, 1, 0, architecture), DENIED]
    instructions.append((LOAD, 0, 0, NUMBER))
    for name, checks in ARGUMENTS.items():
        if name in numbers:
            block = _arguments(checks)
            instructions += [(IF_EQUAL, 0, len(block), numbers.pop(name)), *block]
    # As ranges: the kernel runs a new filter once for every number, to remember what is allowed.
    for first, last in _ranges(numbers.values()):
        instructions += [(IF_AT_LEAST, 0, 2, first), (IF_GREATER, 1, 0, last), ALLOWED_HERE]
    return [*instructions, (IF_AT_LEAST, 0, 1, NOT_THERE_FROM), NOT_THERE, DENIED]


def _arguments(checks: tuple[Check, ...]) -> list[Instruction]:
    """Deny a call unless all of its checked arguments, masked, are among their values."""
    block = []
    for index, mask, values in checks:
        block += [(LOAD, 0, 0, FIRST_ARGUMENT + 8 * index), (AND, 0, 0, mask)]
        # The first value that fits skips the other values and the refusal.
        block += [(IF_EQUAL, len(values) - i, 0, value) for i, value in enumerate(values)]
        block.append(DENIED)
    return [*block, ALLOWED_HERE]


def _ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """The first and last of each run of consecutive numbers."""
    ranges: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
    return ranges
