"""The supervisor of one untrusted program, and that program's process: what `sandbox` starts.

Run by path as `python -I -S -B -X utf8 child.py`, with the standard library alone. Standard input
has two frames, each a marshalled dict:

    job     code, level ("namespaces" or "seccomp"), limits (in bytes and seconds), parent (pid),
            work (an empty folder; only without namespaces)
    tests   tests, setup, entry_points

The second is read only after the untrusted process has been forked, so that the tests are nowhere
in its memory. Standard output gets one Python literal: ("verdict", passed, reason, seconds, output)
or ("broken", what the sandbox could not do).

    sandbox            supervisor (trusted)                 untrusted process
    job, tests  ---->  isolate, fork                 ---->  give everything up, run the code
                       run the tests; a call of
                       an entry point is a request   ---->  call it
                       its value is a reply          <----  encode what it returned
    verdict    <-----  kill, report
"""

import _signal
import marshal
import os
import resource
import select
import struct
import sys
import time
from collections.abc import Callable, Iterator

FOLDER = os.path.dirname(os.path.abspath(__file__))
sys.path.append(FOLDER)  # which -I leaves out
from isolation import (  # noqa: E402
    DUMPABLE,
    PDEATHSIG,
    drop_capabilities,
    enter_namespaces,
    forbid_calls,
    forbid_files,
    libc,
    limit_resources,
    lower_limit,
)
from wire import decode, encode, framed, read, sized, write  # noqa: E402

sys.path.remove(FOLDER)  # or it would be one of the folders that untrusted code can read

LARGEST_FRAME = 4 << 20  # bytes of one returned value; it is decoded by pure Python
LARGEST_JOB = 1 << 30
PIPE_BUFFER = 4096  # bytes that a pipe takes without blocking once it can be written to
LONGEST_NAME, LONGEST_MESSAGE = 100, 200  # of an exception, in characters
REQUESTS, REPLIES = 3, 4  # descriptors of the untrusted process, which has no others but 0, 1, 2

Job = dict[str, object]
Request = tuple[str, object, tuple, dict]  # "call" or "list", of what, arguments, keyword arguments

# The untrusted process.


def serve(code: str) -> None:
    """Run the code, then answer requests for ever; nothing but replies and output leaves here."""
    module = type(sys)("solution")
    sys.modules["solution"] = module
    # What was returned and is no plain data: the tests know these objects by their number.
    objects: list[object] = []

    def reference(value: object) -> bytes:
        objects.append(value)
        return b"h%d;" % (len(objects) - 1)

    def resolve(tag: bytes, key: object) -> object:
        if tag == b"h":
            return objects[key]
        if key in module.__dict__:
            return module.__dict__[key]
        raise NameError(f"name {key!r} is not defined")

    def run(request: bytes | None) -> object:
        if request is None:
            exec(compile(code, "<solution>", "exec"), module.__dict__)
            return None
        kind, target, args, kwargs = decode(request, resolve)
        return target(*args, **kwargs) if kind == "call" else list(target)

    request = None
    while True:
        try:
            reply = b"v" + encode(run(request), reference)
        except BaseException as error:
            reply = b"e" + encode((type(error).__name__[:LONGEST_NAME], _message(error)), None)
        _flush()
        write(REPLIES, reply)
        request = read(REQUESTS, LARGEST_JOB)


def _message(error: BaseException) -> str:
    try:
        return str(error)[:LONGEST_MESSAGE]
    except BaseException:
        return ""


def _flush() -> None:
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        return


def become_untrusted(job: Job, fds: tuple[int, int, int, int]) -> bytes:
    """Keep nothing but empty input, output, and the ends of requests and replies.

    fds: /dev/null, output, requests, replies. Returns what went wrong, or nothing.
    """
    null, output, requests, replies = fds
    for target, fd in enumerate((null, output, output, requests, replies)):
        os.dup2(fd, target)
    os.closerange(REPLIES + 1, 65536)
    namespaces = job["level"] == "namespaces"
    try:
        if not namespaces:
            forbid_files(job["work"])
        drop_capabilities()
        limit_resources(job["limits"])
        forbid_calls(namespaces)  # last: the steps before need some of these calls
    except OSError as error:
        return str(error).encode()
    job.clear()
    return b""


def start(job: Job, fds: tuple[int, int, int, int]) -> int:
    """Fork the untrusted process; the pid of what ends everything in its namespace when it ends."""
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    status = 99
    try:
        libc("prctl", PDEATHSIG, 9, 0, 0, 0)
        os.setsid()
        if job["level"] == "namespaces":
            # This is process 1 of the namespace: when it ends, the kernel kills all the others. The
            # code runs in process 2, as process 1 would be spared the signals of its own.
            code_process = os.fork()
            if code_process:
                os.closerange(0, 65536)
                exit_code = os.waitstatus_to_exitcode(os.waitpid(code_process, 0)[1])
                os._exit(exit_code if exit_code >= 0 else 128 - exit_code)
        elif os.getppid() != parent:  # it ended before the prctl above
            os._exit(status)
        code = job["code"]
        error = become_untrusted(job, fds)
        write(REPLIES, error)
        if not error:
            serve(code)
    finally:
        os._exit(status)


# The trusted side: it runs the tests, and sees the other only through pipes.


class Stop(BaseException):
    """Ends the tests, whatever they catch; its argument is the reason."""


class Unknown:
    """A value of the untrusted process that is no plain data.

    It can be called, iterated over and passed back, and equals nothing but itself.
    """

    def __init__(self, reference: bytes, ask: Callable[[Request], object]) -> None:
        self._reference, self._ask = reference, ask

    def __call__(self, *args: object, **kwargs: object) -> object:
        return self._ask(("call", self, args, kwargs))

    def __iter__(self) -> Iterator[object]:
        return iter(self._ask(("list", self, (), {})))


class Channel:
    """Requests to the untrusted process, replies and output from it.

    deadline: on the monotonic clock. room: how many bytes of output are recorded.
    """

    def __init__(
        self, requests: int, replies: int, output: int, deadline: float, room: int
    ) -> None:
        self.requests, self.replies = requests, replies
        self.output: int | None = output  # None once it has ended
        self.deadline, self.room = deadline, room
        self.recorded: list[bytes] = []
        self.requested = 0

    def ask(self, request: Request) -> object:
        """The value that a call returns, or its exception; Stop when there is no answer."""
        self.requested += 1
        try:
            self.send(encode(request, lambda value: value._reference))
        except OSError:
            raise Stop("exited early") from None
        return self.answer()

    def send(self, data: bytes) -> None:
        """Write a frame; Stop at the deadline, as the other side may never read it."""
        unwritten = memoryview(framed(data))
        while unwritten:
            self.wait(writing=(self.requests,))
            unwritten = unwritten[os.write(self.requests, unwritten[:PIPE_BUFFER]) :]

    def answer(self) -> object:
        """The next reply."""
        try:
            reply = read(self.replies, LARGEST_FRAME, lambda: self.wait(reading=(self.replies,)))
            value = decode(reply[1:], lambda tag, number: Unknown(b"h%d;" % number, self.ask))
        except EOFError:
            raise Stop("exited early") from None
        except MALFORMED:
            raise Stop("unreadable reply") from None
        if reply[:1] == b"v":
            return value
        name, text = value
        if name in ("SystemExit", "KeyboardInterrupt", "GeneratorExit"):
            raise Stop(f"exited early: {name}")
        if name == "MemoryError":
            raise Stop("memory")
        # Cut again: what is received may have been written by hand.
        raise _exception(str(name)[:LONGEST_NAME], str(text)[:LONGEST_MESSAGE])

    def wait(self, reading: tuple[int, ...] = (), writing: tuple[int, ...] = ()) -> None:
        """Take output until one of these can be read or written; Stop at the deadline."""
        while True:
            seconds = self.deadline - time.monotonic()
            sources = reading if self.output is None else (*reading, self.output)
            readable, writable, _ = select.select(sources, writing, [], max(seconds, 0))
            if seconds <= 0 or not (readable or writable):
                raise Stop("timeout")
            if self.output in readable and not self.take():
                self.output = None
            if writable or set(readable) & set(reading):
                return

    def take(self) -> bool:
        """Read output once, and record what there is room for; False at its end."""
        part = os.read(self.output, 1 << 16)
        self.recorded.append(part[: self.room])
        self.room -= len(self.recorded[-1])
        return bool(part)


# What decoding raises for a reply that is none.
MALFORMED = (
    ValueError,
    IndexError,
    KeyError,
    TypeError,
    ArithmeticError,
    RecursionError,
    struct.error,
)


def _exception(name: str, text: str) -> Exception:
    """An exception of this name that tests can catch: Python's own, or one of a new class."""
    builtin = getattr(__builtins__, name, None)
    if not (isinstance(builtin, type) and issubclass(builtin, Exception)):
        return type(name, (RuntimeError,), {})(text)
    try:
        return builtin(text)
    except TypeError:  # such as UnicodeDecodeError, which is made of five arguments
        methods = {"__init__": lambda self, *args: None, "__str__": lambda self: text}
        return type(name, (builtin,), methods)()


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
        return False, f"assertion {_message(error)}".strip()
    except BaseException as error:
        return False, f"exception: {type(error).__name__} {_message(error)}".strip()
    if channel.requested == 0:
        return False, "the tests called nothing"
    return True, "passed"


def finish(pid: int, channel: Channel, reason: str, limits: dict[str, int]) -> str:
    """End the untrusted process and all that it started; the reason, more exactly."""
    ended, status = os.waitpid(pid, os.WNOHANG)
    # Its end of the pipe closes a moment before it can be waited for.
    deadline = time.monotonic() + 1
    while reason == "exited early" and not ended and time.monotonic() < deadline:
        time.sleep(0.002)
        ended, status = os.waitpid(pid, os.WNOHANG)
    if not ended:
        os.kill(pid, 9)
        os.waitpid(pid, 0)

    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    while channel.room and channel.output is not None and channel.take():
        pass
    if reason != "exited early":
        return reason
    code = os.waitstatus_to_exitcode(status) if ended else 0
    signal = -code if code < 0 else code - 128  # process 1 reports a signal as a shell does
    if signal == _signal.SIGXCPU or used.ru_utime + used.ru_stime >= limits["cpu_seconds"]:
        return "timeout"
    return f"killed by signal {signal}" if signal > 0 else f"exited early: code {code}"


def supervise(job: Job) -> tuple[bool, str, float, str]:
    """Isolate, fork, read the tests, run them; (passed, reason, seconds, output)."""
    limits = dict(job["limits"])
    null = os.open("/dev/null", os.O_RDWR)
    isolate(job)

    began = time.monotonic()
    pid, channel = launch(job, null, began)
    tests = marshal.loads(read(0, LARGEST_JOB))
    # From here on this process runs the tests, with the values that the code returned.
    os.dup2(null, 1)
    os.dup2(null, 2)
    lower_limit(resource.RLIMIT_AS, 2 * limits["memory_bytes"], 2 * limits["memory_bytes"])
    lower_limit(resource.RLIMIT_CPU, limits["wall_seconds"] + 1, limits["wall_seconds"] + 1)

    error = read(channel.replies, LARGEST_FRAME)
    if error:
        raise OSError(1, error.decode())
    passed, reason = judge(channel, tests)
    reason = finish(pid, channel, reason, limits)
    seconds = round(time.monotonic() - began, 3)
    return passed, reason, seconds, b"".join(channel.recorded).decode("utf-8", "replace")


def isolate(job: Job) -> None:
    """Isolate this process and the one it will fork, as far as they are the same."""
    if job["level"] == "namespaces":
        enter_namespaces(job["limits"]["file_bytes"])
    else:
        os.chdir(job["work"])
    libc("prctl", DUMPABLE, 0, 0, 0, 0)  # nobody of the same user may read this process's memory
    libc("prctl", PDEATHSIG, 9, 0, 0, 0)
    if os.getppid() != job["parent"]:  # it ended before that
        os._exit(1)


def launch(job: Job, null: int, began: float) -> tuple[int, Channel]:
    """Start the untrusted process; its pid and the supervisor's ends of its three pipes."""
    (output, output_end), (requests_end, requests), (replies, replies_end) = (
        os.pipe(),
        os.pipe(),
        os.pipe(),
    )
    pid = start(job, (null, output_end, requests_end, replies_end))
    for fd in (output_end, requests_end, replies_end):
        os.close(fd)
    limits = job["limits"]
    deadline = began + limits["wall_seconds"]
    return pid, Channel(requests, replies, output, deadline, limits["output_bytes"])


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


if __name__ == "__main__":
    main()
