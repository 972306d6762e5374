"""Every test runs on the CPU, with float64 allowed only where a test asks for it."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
