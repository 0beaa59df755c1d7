"""The supervisor of one untrusted program: what `sandbox` starts, a process for each program.

Run by path as `python -I -S -X utf8 child.py`, with the standard library alone. Standard input has
two frames, each a marshalled dict:

    job     code, level ("namespaces" or "seccomp"), limits (in bytes and seconds), parent (pid),
            work (a folder to make and remove; only without namespaces)
    tests   tests, setup, entry_points

The second is read only after the untrusted process has been forked, so that the tests are nowhere
in its memory. Standard output gets one Python literal: ("verdict", passed, reason, seconds, output)
or ("broken", what the sandbox could not do).

    sandbox            supervisor (trusted)     keeper           untrusted process
    job, tests  ---->  isolate, fork     ---->  fork, wait ---->  give everything up, run the code
                       run the tests; a call of
                       an entry point is a request         ---->  call it
                       its value is a reply                <----  encode what it returned
    verdict    <-----  end, report       ---->  end it, tidy

This file stays small: Python caches the bytecode of what it imports, not of a script.
"""

import os
import sys

FOLDER = os.path.dirname(os.path.abspath(__file__))
sys.path.append(FOLDER)  # which -I leaves out
from supervisor import main  # noqa: E402

sys.path.remove(FOLDER)  # or it would be one of the folders that untrusted code can read

if __name__ == "__main__":
    main()
