"""The benchmarks, one module a family; common.py says what they share."""
