"""The presets that `sundew-algorithms` 0.7.1 documents, as the fields in which each differs from the defaults."""

from __future__ import annotations

import difflib
from dataclasses import replace
from typing import Any

from jaxsrc.errors import UserError
from jaxsrc.modules.sundew import SundewConfig

_V1: dict[str, Any] = {
    "activation_threshold": 0.70,
    "target_activation_rate": 0.25,
    "ema_alpha": 0.10,
    "adapt_kp": 0.06,
    "adapt_ki": 0.01,
    "error_deadband": 0.010,
    "integral_clamp": 0.50,
    "min_threshold": 0.20,
    "max_threshold": 0.90,
    "energy_pressure": 0.05,
    "gate_temperature": 0.10,
}
_V2 = _V1 | {"adapt_kp": 0.08, "adapt_ki": 0.02, "error_deadband": 0.005, "energy_pressure": 0.03}
_HEALTH = _V2 | {
    "activation_threshold": 0.55,
    "target_activation_rate": 0.15,
    "ema_alpha": 0.20,
    "adapt_kp": 0.10,
    "adapt_ki": 0.03,
    "error_deadband": 0.003,
    "min_threshold": 0.18,
    "max_threshold": 0.85,
    "energy_pressure": 0.02,
    "gate_temperature": 0.18,
    "w_magnitude": 0.20,
    "w_anomaly": 0.45,
    "w_context": 0.25,
}
_ECG = _V2 | {
    "target_activation_rate": 0.12,
    "min_threshold": 0.45,
    "gate_temperature": 0.12,
    "w_magnitude": 0.20,
    "w_anomaly": 0.50,
}

PRESETS: dict[str, dict[str, Any]] = {
    "baseline": _V1
    | {"min_threshold": 0.30, "max_threshold": 0.95, "energy_pressure": 0.15, "gate_temperature": 0.0}
    | {"probe_every": 200},
    "tuned_v1": _V1,
    "tuned_v2": _V2,
    "ecg_v1": _ECG
    | {"activation_threshold": 0.60, "ema_alpha": 0.08, "adapt_kp": 0.09, "max_threshold": 0.95, "energy_pressure": 0.08},
    "ecg_mitbih_best": _ECG | {"activation_threshold": 0.65, "target_activation_rate": 0.13, "energy_pressure": 0.05},
    "aggressive": _V2
    | {"adapt_kp": 0.12, "adapt_ki": 0.04, "error_deadband": 0.003, "energy_pressure": 0.02}
    | {"gate_temperature": 0.15, "max_threshold": 0.88},
    "conservative": _V2
    | {"adapt_kp": 0.05, "adapt_ki": 0.01, "error_deadband": 0.010, "energy_pressure": 0.05}
    | {"gate_temperature": 0.05, "min_threshold": 0.25, "max_threshold": 0.92},
    "high_temp": _V2 | {"gate_temperature": 0.20, "energy_pressure": 0.025},
    "low_temp": _V2 | {"gate_temperature": 0.0, "energy_pressure": 0.035},
    "energy_saver": _V2
    | {"energy_pressure": 0.08, "adapt_kp": 0.06, "adapt_ki": 0.01, "max_threshold": 0.92, "gate_temperature": 0.05},
    "target_0p30": _V2 | {"target_activation_rate": 0.30},
    "custom_health": _HEALTH,
    "custom_health_hd82": _HEALTH | {"activation_threshold": 0.56, "gate_temperature": 0.14, "max_threshold": 0.88},
    "custom_breast_probe": _HEALTH
    | {"activation_threshold": 0.54, "target_activation_rate": 0.18, "energy_pressure": 0.028}
    | {"gate_temperature": 0.20, "max_threshold": 0.87, "probe_every": 50},
    "auto_tuned": {
        "activation_threshold": 0.50,
        "target_activation_rate": 0.15,
        "ema_alpha": 0.25,
        "adapt_kp": 0.020,
        "adapt_ki": 0.008,
        "error_deadband": 0.005,
        "integral_clamp": 0.25,
        "min_threshold": 0.15,
        "max_threshold": 0.88,
        "energy_pressure": 0.03,
        "gate_temperature": 0.12,
    },
}


def preset(name: str, **more: Any) -> SundewConfig:
    """A preset by name, other fields changed on top; UserError naming the nearest ones for a name that is not there."""
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, 3, 0.3) or list(PRESETS)
        raise UserError(f"expected the name of a preset, got '{name}'; near ones: {', '.join(near)}")
    return replace(SundewConfig(), **(PRESETS[name] | more))
