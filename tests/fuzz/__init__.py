"""Seeded random calls of every public function: what ci/fuzz and test_fuzz.py run.

    memory.py   arrays between pages that nobody may touch, anywhere and in any strides
    draw.py     a random call that fits together
    spoil.py    the same call with one mistake in it
    check.py    one call made and judged
    loop.py     many of them, and the command line of ci/fuzz

Call number i of a seed is the same on every machine and needs no other call before it.
"""
