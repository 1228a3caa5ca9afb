"""Run one command and record its resource usage; standard library only, so that this process stays small.

    python -m benchmarks.launcher RECORD COMMAND...

A process inherits the peak memory of its parent through fork and exec: measured from a process with torch loaded,
every command would seem to need as much. Writes seconds, peak bytes and exit code to RECORD as JSON.
"""  # fmt: skip

import json
import os
import subprocess
import sys
import time


def main() -> None:
    """Run the command and write the record."""
    record, *command = sys.argv[1:]
    began = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    code = os.waitstatus_to_exitcode(status)
    process.returncode = code
    factor = 1 if sys.platform == "darwin" else 1024  # Linux reports KiB
    with open(record, "w", encoding="utf-8") as file:
        json.dump(
            {
                "seconds": seconds,
                "cpu_seconds": usage.ru_utime + usage.ru_stime,
                "peak_bytes": usage.ru_maxrss * factor,
                "code": code,
            },
            file,
        )


if __name__ == "__main__":
    main()
