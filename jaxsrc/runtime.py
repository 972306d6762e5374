"""Where a run computes: device, precision, mesh, compilation cache, several processes. Runs before any array exists."""

from __future__ import annotations

import os
import platform as host
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from pydantic import Field

from jaxsrc.errors import UserError

Device = Literal["auto", "cpu", "cuda", "metal"]
Precision = Literal["float32", "bfloat16", "float16"]
METAL = ("metal", "mps", "mtl")  # names under which Metal plugins for JAX register, compared in lower case
INSTALL = {"cuda": "scripts/setup cuda", "metal": "scripts/setup metal (macOS on Apple silicon)"}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}


@dataclass(frozen=True, kw_only=True)
class RuntimeConfig:
    """device: auto takes CUDA, then Metal, then CPU; gpu_only: refuse to start without a GPU; precision: of the
    computation, parameters stay float32; compile_cache: folder of compiled programs ('' switches it off); coordinator,
    processes, process: address host:port, count and index for a run over several processes."""

    device: Device = "auto"
    gpu_only: bool = False
    precision: Precision = "float32"
    compile_cache: str = "~/.cache/sheaf/xla"
    coordinator: str | None = None
    processes: Annotated[int, Field(ge=1)] = 1
    process: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True)
class Runtime:
    """platform: cpu, cuda or metal; why: in words; mesh: all devices of all processes along the axis 'data'."""

    platform: str
    why: str
    mesh: Mesh
    precision: Precision

    @property
    def devices(self) -> list[Any]:
        return list(self.mesh.devices.flat)

    @property
    def compute_dtype(self) -> np.dtype:
        return np.dtype(DTYPES[self.precision])

    @property
    def replicated(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec())

    def batch_sharding(self, leading: int = 0) -> NamedSharding:
        """The batch axis over 'data'; `leading` axes before it are whole on every device."""
        return NamedSharding(self.mesh, PartitionSpec(*[None] * leading, "data"))

    @property
    def is_main(self) -> bool:
        return jax.process_index() == 0

    def describe(self) -> str:
        kind = self.devices[0].device_kind
        count = f"{len(self.devices)} x " if len(self.devices) > 1 else ""
        return f"{self.platform} ({count}{kind}; {self.why}), {self.precision}"


def platform_of(device: Any) -> str:
    """'cpu', 'cuda' or 'metal' for a JAX device."""
    name = device.platform.lower()
    return "metal" if name in METAL else "cuda" if name in ("gpu", "cuda") else name


def find_devices(wanted: str) -> list[Any]:
    """Devices of cuda, metal or cpu; none where the platform is not here."""
    names = {"cuda": ["cuda"], "metal": ["mps", "METAL", "metal", "mtl"], "cpu": ["cpu"]}[wanted]
    for name in names:
        try:
            return list(jax.devices(name))
        except RuntimeError:
            continue
    return []


def _missing(wanted: str) -> str:
    """What to do about an absent device."""
    allowed = os.environ.get("JAX_PLATFORMS")
    return f"unset JAX_PLATFORMS, which allows {allowed} alone" if allowed else f"install it with {INSTALL[wanted]}"


def _choose(config: RuntimeConfig) -> tuple[str, list[Any], str]:
    if config.device != "auto":
        found = find_devices(config.device)
        if not found:
            raise UserError(
                f"expected a {config.device} device, got none on this machine; {_missing(config.device)}, or ask for "
                "--device auto"
            )
        return config.device, found, "as asked"
    for wanted in ("cuda", "metal"):
        found = find_devices(wanted)
        if found:
            return wanted, found, f"auto: the first of cuda, metal, cpu that is here is {wanted}"
    return "cpu", find_devices("cpu"), "auto: no CUDA or Metal device is here"


def start(config: RuntimeConfig) -> Runtime:
    """Choose the devices and set JAX up; call once, before the first array.

    Errors: UserError naming the install command for an absent device, and for --gpu-only without a GPU.
    """
    if config.processes > 1:
        if not config.coordinator or config.process >= config.processes:
            raise UserError(
                f"expected runtime.coordinator=host:port and runtime.process below {config.processes}, got "
                f"{config.coordinator} and {config.process}; start every process with its own index"
            )
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(config.coordinator, config.processes, config.process)
    platform, devices, why = _choose(config)
    if config.gpu_only and platform == "cpu":
        raise UserError(f"expected a GPU because of --gpu-only, got cpu ({why}); {_missing('cuda')}, or leave it out")
    if platform == "metal" and config.precision != "float32":
        raise UserError(f"expected precision float32 on metal, got {config.precision}; its plugins lack the rest")
    jax.config.update("jax_default_device", next(d for d in devices if d.process_index == jax.process_index()))
    if config.compile_cache:
        folder = Path(os.path.expanduser(config.compile_cache))
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    if platform != "metal":
        devices = [d for d in jax.devices(devices[0].platform)]
    return Runtime(platform, why, Mesh(np.array(devices), ("data",)), config.precision)


def refuse_half_on_cpu(config: RuntimeConfig) -> None:
    """UserError for a training in float16 on a CPU, which has no arithmetic of that type; several processes are not asked."""
    if config.precision == "float16" and config.processes == 1 and _choose(config)[0] == "cpu":
        raise UserError(
            "expected precision float32 or bfloat16 on cpu, got float16, which it only imitates; change --precision, or use a GPU"
        )


def environment() -> dict[str, str]:
    """Versions and machine, for the report."""
    from importlib.metadata import version

    names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    found = {name: version(name) for name in names}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"python": host.python_version(), "machine": f"{host.system()} {host.machine()}, {cores} cores", **found}
