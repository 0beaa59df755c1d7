"""NVIDIA GPUs as XLA's compiler asks about them, so that it compiles for one that is not here.

The values are what the driver reports of a card; XLA keeps such descriptions of its own beside its
tests (`xla/backends/gpu/target_config/specs`). A real card's is written by
`jax.experimental.topologies.get_topology_for_devices(jax.devices()).target_config`.
"""

import dataclasses

_TARGET = """
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_core: {shared_memory}
  shared_memory_per_block_optin: {shared_memory_per_block}
  core_count: {cores} fpus_per_core: {fpus_per_core} clock_rate_ghz: {clock_ghz}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  memory_bandwidth: {bandwidth} l2_cache_size: {l2_cache} device_memory_size: {memory}
  cuda_compute_capability {{ major: {major} feature_extension: {features} }}
  device_vendor: "NVIDIA Corporation" platform_version: "Compute Capability {capability}"
  device_address_bits: 64 name: "{name}"
  driver_version: "12.8.0" runtime_version: "12.8.0" compile_time_toolkit_version: "12.8.0"
  dnn_version: "9.10.0"
}}
platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
device_description_str: "{name}"
"""


@dataclasses.dataclass(frozen=True)
class Gpu:
    """A card. memory, l2_cache and shared memory in bytes, bandwidth in bytes a second."""

    name: str
    memory: int
    bandwidth: int
    cores: int = 132
    clock_ghz: float = 1.98
    l2_cache: int = 52428800
    fpus_per_core: int = 128
    shared_memory: int = 233472
    shared_memory_per_block: int = 232448
    major: int = 9
    features: str = "ACCELERATED_FEATURES"
    capability: str = "9.0a"

    @property
    def target(self) -> str:
        """XLA's GpuTargetConfigProto, as text."""
        return _TARGET.format_map(dataclasses.asdict(self))


_AMPERE = {
    "cores": 108,
    "clock_ghz": 1.41,
    "l2_cache": 41943040,
    "fpus_per_core": 64,
    "shared_memory": 167936,
    "shared_memory_per_block": 166912,
    "major": 8,
    "features": "NONE",
    "capability": "8.0",
}
GPUS: dict[str, Gpu] = {
    "a100-40gb": Gpu("NVIDIA A100-SXM4-40GB", 42_298_834_944, 1_555_200_000_000, **_AMPERE),
    "a100-80gb": Gpu("NVIDIA A100-SXM4-80GB", 85_100_068_864, 2_039_040_000_000, **_AMPERE),
    "h100": Gpu("NVIDIA H100 80GB HBM3", 84_942_979_072, 3_352_320_000_000),
    "h200": Gpu("NVIDIA H200", 151_397_597_184, 4_800_000_000_000),
}
