"""Files of every reader with mistakes put in by their structure, each read under limits.

`mutations` puts the mistakes in, the `of_*` modules are the readers with whole files for them,
`worker` reads one file after another in a process of its own, `driver` starts workers and counts:

    python tests/fuzzing/driver.py --cases=20000
    python tests/fuzzing/driver.py --reader=gguf --case=123      one file again, with its traceback
"""
