"""The process of the untrusted code: it gives everything up, runs the code, and answers calls.

It never has the tests, and nothing that it says is believed but for values, as plain data.
"""

import os
import sys

from isolation import drop_capabilities, forbid_files, limit_resources
from seccomp import forbid_calls
from wire import decode, encode, read, write

LARGEST_REQUEST = 1 << 30  # bytes
LONGEST_NAME, LONGEST_MESSAGE = 100, 200  # of an exception, in characters
REQUESTS, REPLIES = 3, 4  # descriptors of this process, which has no others but 0, 1, 2

Job = dict[str, object]


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
            reply = b"e" + encode((type(error).__name__[:LONGEST_NAME], message(error)), None)
        _flush()
        write(REPLIES, reply)
        request = read(REQUESTS, LARGEST_REQUEST)


def message(error: BaseException) -> str:
    """The error's text, cut short; "" where its own code fails to make one."""
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


def become_untrusted(job: Job, fds: tuple[int, int, int, int]) -> None:
    """Keep nothing but empty input, output, and the ends of requests and replies.

    fds: /dev/null, output, requests, replies. Raises OSError where the kernel refuses something.
    """
    null, output, requests, replies = fds
    for target, fd in enumerate((null, output, output, requests, replies)):
        os.dup2(fd, target)
    os.closerange(REPLIES + 1, 65536)
    namespaces = job["level"] == "namespaces"
    if not namespaces:
        os.chdir(job["work"])
        forbid_files(job["work"])
    drop_capabilities()
    limit_resources(job["limits"])
    forbid_calls(namespaces)  # last: the steps before need some of these calls
    job.clear()
