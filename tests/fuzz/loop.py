"""ci/fuzz: many random calls, in a process whose end is noticed."""

import argparse
import collections
import faulthandler
import json
import os
import resource
import subprocess
import sys
import tempfile
import time

from . import check

#: seconds that one call may take, compiling on a busy machine included
CALL_LIMIT = 900
#: bytes of address space beyond what the process has when it starts: huge requests fail, and
#: compiled kernels, of which the process comes to hold all, find room
ROOM = 5 << 30
ENDED = "ended the process"
_PLACE = 500  # bytes that hold the number of the call under way and the counts so far


def resident():
    """Bytes of memory that this process has in use."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def calls(seed, start, count, said=None):
    """Makes the calls; the number of each outcome, the failures as text, the memory on the way."""
    outcomes, failures, memory = collections.Counter(), [], []
    for number in range(start, start + count):
        if said is not None:
            said(number, outcomes)
        faulthandler.dump_traceback_later(CALL_LIMIT, exit=True)
        try:
            outcomes[check.run(seed, number)] += 1
        except AssertionError as error:
            outcomes["wrong"] += 1
            failures.append(str(error))
            print(error, file=sys.stderr, flush=True)
        if (number - start) % 1000 == 999:
            memory.append(resident())
    faulthandler.cancel_dump_traceback_later()
    return {"outcomes": dict(outcomes), "failures": failures, "memory": memory}


def limit_memory():
    """Huge requests become MemoryError instead of the system's end of this process."""
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))


def _child(options):
    faulthandler.enable()
    limit_memory()
    with open(options.place, "r+b", buffering=0) as place:

        def said(*state):
            os.pwrite(place.fileno(), json.dumps(state).encode().ljust(_PLACE), 0)

        print(json.dumps(calls(options.seed, options.start, options.count, said)))


def _parent(options):
    total, failures, memory = collections.Counter(), [], []
    began, number, end = time.time(), options.start, options.start + options.count
    with tempfile.NamedTemporaryFile() as place:
        while number < end:
            child = [sys.executable, "-m", "fuzz.loop", "--place", place.name]
            child += ["--seed", options.seed, "--start", number, "--count", end - number]
            done = subprocess.run(list(map(str, child)), stdout=subprocess.PIPE, text=True)
            if done.returncode == 0:
                found = json.loads(done.stdout)
                total.update(found["outcomes"])
                failures += found["failures"]
                memory += found["memory"]
                break
            place.seek(0)
            last, outcomes = json.loads(place.read(_PLACE) or json.dumps((number, {})))
            total.update({**outcomes, ENDED: 1})
            failures.append(f"call {last} of seed {options.seed} {ENDED}: {done.returncode}")
            print(failures[-1], file=sys.stderr)
            number = last + 1
            place.seek(0)
            place.truncate()
    said = ", ".join(f"{count} {name}" for name, count in sorted(total.items()))
    seconds = time.time() - began
    print(f"seed {options.seed}: {sum(total.values())} calls in {seconds:.0f} s: {said}")
    if memory:
        print("resident MiB every 1,000 calls:", *(one >> 20 for one in memory))
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"counts": total, "failures": failures, "memory": memory}, file)
    return 1 if failures else 0


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="ci/fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=100_000, help="number of calls (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0, help="number of the first call")
    parser.add_argument("--json", help="file that the counts are written to")
    parser.add_argument("--place", help=argparse.SUPPRESS)  # of a child: where its number is kept
    options = parser.parse_args(arguments)
    if options.place:
        return _child(options)
    return _parent(options)


if __name__ == "__main__":
    sys.exit(main())
