"""Attention on a CPU: compiled by numba, with micro-kernels written as vector LLVM IR.

Reads top down: :mod:`backend` takes tensors, :mod:`threads` shares the work out, :mod:`forward` and
:mod:`backward` are what one thread does, :mod:`lists` and :mod:`schedule` read the plan, :mod:`micro`
holds the vector loops and :mod:`vector_ir` the language that they are written in.
"""
