"""What is assumed of each GPU: every figure that is neither read from machine code nor worked out by the plan."""

from __future__ import annotations

from dataclasses import dataclass, field

# Cycles from issue until a result is there, by the beginning of an instruction's name; the first that fits counts.
# Sources: LDS, LDSM, L1 and L2 from microbenchmarks of Volta to Hopper (Jia et al., "Dissecting the NVIDIA Volta GPU
# architecture via microbenchmarking", 2018; Luo et al., "Benchmarking and dissecting the NVIDIA Hopper GPU
# architecture", 2024); the others are what those papers give for instructions of variable latency, rounded.
# What has a fixed latency needs no entry: ptxas writes it into the stall counts.
LATENCY: tuple[tuple[str, int], ...] = (
    ("LDSM", 33), ("LDS", 30), ("LDGSTS", 20),  # LDGSTS: until its address registers are free
    ("LDC", 40), ("ULDC", 40), ("S2", 25), ("POPC", 20), ("MUFU", 20), ("I2F", 20), ("F2I", 20), ("FLO", 20),
    ("HMMA", 33), ("STS", 15), ("STG", 20), ("R2UR", 12), ("SYNCS", 25),
)  # fmt: skip
OTHER_LATENCY = 20
READ_LATENCY = 20  # at most, until operands have been read

# Cycles of the multiprocessor's one path to shared memory and L1 (128 bytes a cycle) that an instruction of a whole
# warp takes, by the beginning of its name; others take none.
SHARED_CYCLES: tuple[tuple[str, int], ...] = (
    ("LDSM.16.M88.4", 4), ("LDSM.16.MT88.4", 4), ("LDSM.16.M88.2", 2), ("LDSM.16.MT88.2", 2), ("LDSM", 1),
    ("LDGSTS", 4), ("LDS.128", 4), ("LDS.64", 2), ("LDS", 1), ("STS.128", 4), ("STS.64", 2), ("STS", 1),
    ("LDG.E.128", 4), ("LDG", 1), ("STG.E.128", 4), ("STG.E.64", 2), ("STG", 1),
)  # fmt: skip
QUEUED = 64  # cycles of that path's work that may wait before a warp's next such instruction does

BLOCK_START = 1000  # cycles from a free slot to a block's first instruction, and from its last one to the free slot
SWEEP_SHARE = 0.55  # of DRAM's bandwidth that passes over memory reach: scale_gradient in the same file of ncu

MEASURED_CALL = 5.0  # microseconds between two events around an operator that launches one small kernel (docs/gpu.md)


@dataclass(frozen=True)
class Gpu:
    """``arch``: whose machine code runs. ``code``: its name in the extension.

    ``hmma``: cycles of a sub-core's tensor core for one HMMA.16816 of half types with fp32 sums (2048 products);
    ``hgmma``: for as many products of wgmma. ``clock``: GHz under load. ``l2``, ``dram``: bytes a second.
    ``launch``: microseconds from one kernel's end to the next one's begin.
    """

    title: str
    arch: int
    code: tuple[str, ...]
    multiprocessors: int
    block_shared: int
    shared: int
    clock: float
    hmma: float
    hgmma: float
    flops: float
    l2: float
    dram: float
    launch: float = 1.5
    l2_latency: int = 270
    dram_latency: int = 650
    mask_latency: int = 270
    registers: int = 65536
    threads: int = 2048
    blocks: int = 32
    reserved: int = 1024  # bytes of shared memory that the driver takes for each block
    wgmma: bool = field(default=False)


# Shared memory, threads and blocks: CUDA C++ programming guide, table of compute capabilities. Products: the
# architectures' whitepapers (dense, fp32 sums): A100 312 TFLOP/s at 1.41 GHz are 8 cycles an HMMA, RTX 4090 165 at 2.52
# GHz are 32, H100 SXM 989 at 1.83 GHz are 4 for wgmma. mma.sync takes 6 of them on an H100, and the clock is 1.7 GHz:
# ncu's tensor cycles of enc2 on either kind of kernel, 49.3 % of 137 us and 39.6 % of 111 us for the same products
# (benchmarks/results/2026-11-27_2_h200_ncu.csv). wgmma's 4.35: what a step more costs between enc3 and dec4,
# measured. The other clocks are guesses between base and boost. flops and dram: H100 and H200 the measured ceilings of
# docs/gpu.md, the others the whitepapers'. L2's bandwidth: chipsandcheese.com, "Nvidia's H100" and "Microbenchmarking
# Nvidia's RTX 4090". Latencies of L2 and DRAM as above; DRAM's 480 of an idle device are 650 here, under load.
GPUS: dict[str, Gpu] = {
    "h100": Gpu(
        "H100", 90, ("sm_90a", "sm_90"), 132, 227 << 10, 228 << 10, 1.7, 6.0, 4.35, 803e12, 5.5e12, 3.0e12, wgmma=True
    ),
    "h200": Gpu(
        "H200", 90, ("sm_90a", "sm_90"), 132, 227 << 10, 228 << 10, 1.7, 6.0, 4.35, 803e12, 5.5e12, 4.2e12, wgmma=True
    ),
    "a100": Gpu("A100", 80, ("sm_80",), 108, 163 << 10, 164 << 10, 1.35, 8.0, 8.0, 312e12, 4.0e12, 1.55e12),
    "rtx4090": Gpu(
        "RTX 4090", 89, ("sm_89", "sm_80"), 128, 99 << 10, 100 << 10, 2.5, 32.0, 32.0, 165e12, 5.0e12, 1.0e12,
        threads=1536, blocks=24,
    ),
}  # fmt: skip


def latency(name: str, gpu: Gpu) -> int:
    """Global loads are taken to come from L2, mask bytes from where ``gpu.mask_latency`` says."""
    if name.startswith("LDG.E.U8"):
        return gpu.mask_latency
    if name.startswith("LDG.") or name == "LDG":
        return gpu.l2_latency
    return next((cycles for start, cycles in LATENCY if name.startswith(start)), OTHER_LATENCY)


def shared_cycles(name: str) -> int:
    return next((cycles for start, cycles in SHARED_CYCLES if name.startswith(start)), 0)
