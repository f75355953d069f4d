"""Products with sparse activations: one interface, a kernel for CPUs (Numba) and one for GPUs (Triton)."""
