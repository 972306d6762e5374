"""Which device a run takes, and what it says where there is none."""

from types import SimpleNamespace

import jax
import pytest

from jaxsrc import runtime
from jaxsrc.errors import UserError
from jaxsrc.runtime import RuntimeConfig, platform_of, refuse_half_on_cpu, start
from jaxsrc.train import main as train


@pytest.fixture
def pretend(monkeypatch):
    """A machine with the named devices; nothing of JAX is set up."""

    def machine(*names: str) -> None:
        def find(wanted: str) -> list:
            return jax.devices("cpu") if wanted in names else []

        monkeypatch.setattr(runtime, "find_devices", find)
        monkeypatch.setattr(jax.config, "update", lambda *_: None)

    return machine


@pytest.mark.parametrize(
    ("here", "chosen"),
    [(("cpu",), "cpu"), (("cpu", "cuda"), "cuda"), (("cpu", "metal"), "metal"), (("cpu", "metal", "cuda"), "cuda")],
)
def test_auto_takes_cuda_then_metal_then_cpu_and_says_why(pretend, here, chosen):
    pretend(*here)
    found = start(RuntimeConfig())
    assert found.platform == chosen
    assert "auto" in found.describe() and chosen in found.describe() and "float32" in found.describe()


@pytest.mark.parametrize("device", ["cuda", "metal"])
def test_an_absent_device_names_the_install_command(pretend, device, monkeypatch):
    pretend("cpu")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    with pytest.raises(UserError, match="; unset JAX_PLATFORMS, which allows cpu alone, or ask"):
        start(RuntimeConfig(device=device))
    monkeypatch.delenv("JAX_PLATFORMS")
    with pytest.raises(UserError, match=rf"expected a {device} device, got none.*install it with scripts/setup {device}"):
        start(RuntimeConfig(device=device))


def test_gpu_only_refuses_a_cpu(pretend):
    pretend("cpu")
    with pytest.raises(UserError, match="expected a GPU because of --gpu-only, got cpu"):
        start(RuntimeConfig(gpu_only=True))
    pretend("cpu", "cuda")
    assert start(RuntimeConfig(gpu_only=True)).platform == "cuda"


def test_metal_computes_in_float32_only(pretend):
    pretend("cpu", "metal")
    with pytest.raises(UserError, match="expected precision float32 on metal, got bfloat16"):
        start(RuntimeConfig(precision="bfloat16"))


def test_training_in_float16_wants_a_gpu(pretend, tmp_path):
    pretend("cpu")
    with pytest.raises(UserError, match="expected precision float32 or bfloat16 on cpu, got float16"):
        train(["configs/depth_pilot.yaml", "--precision", "float16", "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()
    pretend("cpu", "cuda")
    refuse_half_on_cpu(RuntimeConfig(precision="float16"))


@pytest.mark.parametrize("config", [{"processes": 2}, {"processes": 2, "coordinator": "127.0.0.1:1", "process": 2}])
def test_several_processes_want_an_address_and_an_index(config):
    with pytest.raises(UserError, match=r"expected runtime.coordinator=host:port and runtime.process below 2"):
        start(RuntimeConfig(**config))


@pytest.mark.parametrize(("name", "platform"), [("METAL", "metal"), ("mps", "metal"), ("gpu", "cuda"), ("cpu", "cpu")])
def test_platforms_by_the_names_that_plugins_give(name, platform):
    assert platform_of(SimpleNamespace(platform=name)) == platform


def test_the_command_refuses_before_it_makes_a_folder(pretend, tmp_path):
    pretend("cpu")
    with pytest.raises(UserError, match="--gpu-only"):
        train(["configs/arc_sheaf.yaml", "--gpu-only", "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


def test_the_environment_names_versions_and_machine():
    found = runtime.environment()
    assert found["jax"] == jax.__version__ and "cores" in found["machine"]
