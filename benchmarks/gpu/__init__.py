"""The run on a machine with a GPU: what benchmarks/gpu_lap.py is made of."""
