"""gradroute beside other libraries: what `gradroute bench` and asv_bench/compare.py share.

    cases.py      which operation at which sizes, its seeded inputs, its arithmetic and its bytes
    peers/        how each library computes an operation; a missing one says how to install it
    measure.py    the check against float64, then the alternating timing
    record.py     rows, their ratios and geometric means, JSON
    ceilings.py   the most that this machine can do, measured
    machine.py    what ran where
    scaling.py    time against batch, channels, image size and threads; memory against image size
    causes.py     why a row is probably lost, by rule
    itself.py     gradroute alone: errors of each algorithm, first calls, small calls
    lines.py, tables.py, pictures.py, report.py    what a person reads
"""
