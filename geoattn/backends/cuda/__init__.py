"""CUDA kernels over plans, compiled on the machine that runs them.

``variants`` says which kernels there are, ``arguments`` how their arguments lie in memory, ``plans``
how a plan does, ``compiler`` makes machine code, ``device`` launches it, and ``backend`` is the
operator. The kernels themselves are in the top-level folder ``cuda``.
"""
