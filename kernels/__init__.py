"""Compute kernels: one folder per backend, one contract (``contract.py``) for all of them."""
