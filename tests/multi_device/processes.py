"""Processes of one command, as one per host, on this machine."""

import os
import socket
import subprocess
import sys
import time


def free_port():
    with socket.create_server(("localhost", 0)) as server:
        return server.getsockname()[1]


class Start:
    """Processes of one command, started together; a context manager that leaves none behind."""

    def __init__(self, folder, count, module="main", own=lambda process: (), variables=(), **flags):
        where = f"localhost:{free_port()}"
        environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(8 // count)} | dict(variables)
        self.processes = []
        for process in range(count):
            joined = [
                "--distributed",
                f"--coordinator={where}",
                f"--processes={count}",
                f"--process_id={process}",
            ]
            words = [f"--{name}={value}" for name, value in flags.items()]
            command = [
                sys.executable,
                "-m",
                f"lfl_jax.{module}",
                *words,
                *own(process),
                *(joined if count > 1 else []),
            ]
            pipes = {
                "stdout": subprocess.PIPE,
                "stderr": subprocess.PIPE,
                "text": True,
                "env": environment,
            }
            self.processes.append(subprocess.Popen(command, cwd=folder, **pipes))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.communicate()

    def ends(self, seconds=300):
        """(exit code, stdout, stderr) of each."""
        deadline, found = time.monotonic() + seconds, []
        for process in self.processes:
            out, err = process.communicate(timeout=max(1, deadline - time.monotonic()))
            found.append((process.returncode, out, err))
        return found


def finished(start):
    """What each process printed and said, all having ended well."""
    ends = start.ends()
    assert {code for code, _, _ in ends} == {0}, "\n".join(err[-3000:] for _, _, err in ends)
    return [(out, err) for _, out, err in ends]
