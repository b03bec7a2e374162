"""C kernels for the CPU: when they run, who compiles them, where they are kept. Needs no torch."""
