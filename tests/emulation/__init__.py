"""CUDA kernels on a CPU, thread by thread, under sanitizers. Tests say `from emulation import build`."""
