"""Vectors, transpositions and register tiles, emitted as LLVM IR: what kernels are made of."""
