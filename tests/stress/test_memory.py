"""Memory in use stays what it was, however many calls are made."""

import processes


def test_ten_thousand_calls_leave_the_memory_flat():
    processes.run(
        """
        import gc, pathlib, sys
        sys.path.insert(0, TESTS)
        from calls import CALLS
        from fuzz.loop import resident
        prepared = [(call, call.arrays("float32")) for call in CALLS]

        def thousand():
            for _ in range(1000 // len(prepared)):
                for call, arrays in prepared:
                    call(arrays)
            gc.collect()
            return resident()

        thousand()  # compiles, fills the caches of plans
        first = thousand()
        last = [thousand() for _ in range(9)][-1]
        assert last - first < 4 << 20, (first, last)
        """.replace("TESTS", repr(processes.TESTS)),
        NUMBA_NUM_THREADS="2",
    )
