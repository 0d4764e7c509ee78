"""Cycles counted from machine code, to optimise kernels without a GPU. docs/static-model.md says how to use it.

sass       machine code as instructions with ptxas' control codes; registers, stack and shared memory
flow       blocks, loops and the path that a warp takes through them
cycles     warps of a multiprocessor walking such paths, by stall counts, barriers and shared pipes
devices    what is assumed of each GPU, with sources
pieces     prologue, step and epilogue of the kernel that a plan chose
launches   a layer's launches from the real plan; waves and tails
estimate   microseconds of a launch
layers, tiles, kernel, versions, against    the commands
"""
