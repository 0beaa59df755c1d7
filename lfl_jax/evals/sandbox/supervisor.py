"""The trusted side of the sandbox's child: isolates, starts the program, runs the tests, reports.

It sees the untrusted process through pipes alone (`channel`).
"""

import _signal
import marshal
import os
import resource
import time

from channel import Channel, Stop, Unknown
from clock import Clock
from isolation import DUMPABLE, PDEATHSIG, enter_namespaces, libc, lower_limit
from keeper import FULL, KILL, end_with_parent, keep
from untrusted import REPLIES, Job, become_untrusted, message, serve
from wire import read, sized, write

LARGEST_JOB = 1 << 30  # bytes


def supervise(job: Job) -> tuple[bool, str, float, str]:
    """Isolate, fork, read the tests, run them; (passed, reason, seconds, output)."""
    limits = dict(job["limits"])
    proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)  # a private root has none
    isolate(job)

    clock = Clock(limits["wall_seconds"], limits["longest_seconds"])
    child = launch(job, proc, clock)
    tests = marshal.loads(read(0, LARGEST_JOB))
    # From here on this process runs the tests, with the values that the code returned.
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 1)
    os.dup2(null, 2)
    lower_limit(resource.RLIMIT_AS, 2 * limits["memory_bytes"], 2 * limits["memory_bytes"])
    lower_limit(resource.RLIMIT_CPU, limits["wall_seconds"] + 1, limits["wall_seconds"] + 1)

    passed, reason = judge(child.channel, tests)
    reason = finish(child, reason, limits["cpu_seconds"])
    seconds = round(time.monotonic() - clock.began, 3)
    return passed, reason, seconds, b"".join(child.channel.recorded).decode("utf-8", "replace")


def isolate(job: Job) -> None:
    """Isolate this process and those it will fork, as far as they are the same."""
    if job["level"] == "namespaces":
        enter_namespaces(job["limits"]["file_bytes"])
    libc("prctl", DUMPABLE, 0, 0, 0, 0)  # nobody of the same user may read this process's memory
    end_with_parent(job["parent"])


# Starting and ending the untrusted process.


class Child:
    """What was started: pid of the keeper, the pipe that it lives by, pipes to the program."""

    # No dataclass: to import those would cost every program a third of its time.
    def __init__(self, keeper: int, alive: int, channel: Channel) -> None:
        self.keeper, self.alive, self.channel = keeper, alive, channel


def launch(job: Job, proc: int, clock: Clock) -> Child:
    """Start the keeper and the untrusted process; OSError where the latter cannot be isolated."""
    null = os.open("/dev/null", os.O_RDWR)
    # Of each pipe, the end to read from and the end to write to.
    alive, output, requests, replies = (os.pipe() for _ in range(4))
    ends = (null, output[1], requests[0], replies[1])
    keeper = start(job, proc, ends, alive[0])
    for fd in (alive[0], *ends):
        os.close(fd)

    room = job["limits"]["output_bytes"]
    channel = Channel(requests[1], replies[0], output[0], clock, room)
    clock.watch("self", proc)
    clock.watch(await_isolation(channel), proc)
    os.close(proc)
    return Child(keeper, alive[1], channel)


def start(job: Job, proc: int, fds: tuple[int, ...], alive: int) -> int:
    """Fork the keeper, and from it the untrusted process; the keeper's pid.

    fds: /dev/null, output, requests, replies, for the program. alive: as in `keep`.
    """
    keeper = os.fork()
    if keeper:
        return keeper
    try:
        folder = job.get("work")
        if folder:
            os.mkdir(folder, 0o700)
            # The keeper sees what is open only of a process whose memory its user may read. Other
            # programs of the user are no danger: they can open no /proc and trace nobody.
            libc("prctl", DUMPABLE, 1, 0, 0, 0)
        else:  # if this process dies, so does its namespace; a folder would stay
            libc("prctl", PDEATHSIG, KILL, 0, 0, 0)
        os.setsid()
        # The code runs in process 2 of a namespace: process 1 would be spared signals of its own.
        keeper = os.getpid()
        program = os.fork()
        if program:
            os._exit(keep(program, alive, folder, job["limits"]["file_bytes"]))
        end_with_parent(keeper)
        isolate_and_serve(job, proc, fds)
    except OSError as error:  # before there is anything to keep: reported where it is read
        write(fds[-1], b"e" + str(error).encode())
    finally:
        os._exit(99)


def isolate_and_serve(job: Job, proc: int, fds: tuple[int, ...]) -> None:
    """The untrusted process: tell its pid as others see it, or what the kernel refused; serve."""
    code = job["code"]
    pid = os.readlink("self", dir_fd=proc)
    try:
        become_untrusted(job, fds)
    except OSError as error:
        write(REPLIES, b"e" + str(error).encode())
        return
    write(REPLIES, b"r" + pid.encode())
    serve(code)


def await_isolation(channel: Channel) -> str:
    """The pid of the untrusted process, isolated; OSError where something was refused."""
    try:
        message = channel.receive()
    except (EOFError, Stop):
        raise OSError(1, "the isolated process did not start") from None
    if message[:1] == b"e":
        raise OSError(1, message[1:].decode())
    return str(int(message[1:]))


def finish(child: Child, reason: str, cpu_seconds: int) -> str:
    """End the untrusted process and all that it started; the reason, more exactly."""
    ended, status = os.waitpid(child.keeper, os.WNOHANG)
    # Its end of the pipe closes a moment before it can be waited for.
    deadline = time.monotonic() + 1
    while reason == "exited early" and not ended and time.monotonic() < deadline:
        time.sleep(0.002)
        ended, status = os.waitpid(child.keeper, os.WNOHANG)
    os.close(child.alive)
    if not ended:
        _, status = os.waitpid(child.keeper, 0)

    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    child.channel.take_the_rest()
    code = os.waitstatus_to_exitcode(status)
    if code == FULL:
        return "disk"
    if reason != "exited early":
        return reason
    if not ended:  # it only closed its end
        code = 0
    signal = -code if code < 0 else code - 128  # the keeper reports a signal as a shell does
    if signal == _signal.SIGXCPU or used.ru_utime + used.ru_stime >= cpu_seconds:
        return "timeout"
    return f"killed by signal {signal}" if signal > 0 else f"exited early: code {code}"


# The tests.


def judge(channel: Channel, tests: dict) -> tuple[bool, str]:
    """Run the tests here; (passed, reason)."""
    try:
        channel.answer()  # of running the code
        names = {"__name__": "tests"}
        exec(compile(tests["setup"], "<setup>", "exec"), names)
        for name in tests["entry_points"]:
            names[name] = Unknown(b"g" + sized(name.encode()), channel.ask)
        exec(compile(tests["tests"], "<tests>", "exec"), names)
    except Stop as stop:
        return False, str(stop)
    except AssertionError as error:
        return False, f"assertion {message(error)}".strip()
    except BaseException as error:
        return False, f"exception: {type(error).__name__} {message(error)}".strip()
    if channel.stopped is not None:  # and the tests caught it
        return False, channel.stopped
    if channel.requested == 0:
        return False, "the tests called nothing"
    return True, "passed"


def main() -> None:
    """Report the verdict on what was standard output."""
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    report = os.dup(1)
    try:
        job = marshal.loads(read(0, LARGEST_JOB))
        outcome = ("verdict", *supervise(job))
    except (OSError, EOFError) as error:
        outcome = ("broken", str(error))
    os.write(report, repr(outcome).encode("utf-8", "backslashreplace"))
    os._exit(0)
