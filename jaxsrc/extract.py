"""`python -m jaxsrc.extract CONFIG [key=value ...]`: read every prompt of a hybrid configuration once with the language model."""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from jaxsrc import config as configuration
from jaxsrc import runtime as runtimes
from jaxsrc.data import arc_text
from jaxsrc.data.arc import Task
from jaxsrc.errors import DONE, UserError, command_line
from jaxsrc.experiment import RunConfig
from jaxsrc.feature_cache import Cache, Entry, FeatureConfig, Identity, fill
from jaxsrc.hybrid_data import Problems, draw
from jaxsrc.hybrid_experiment import HybridConfig
from jaxsrc.llama_store import SOURCE, Stored, open_store

PIECE = 128  # prompts are padded to a multiple of it, so that few programs are compiled
STORED = {"float32": jnp.float32}


class Reader:
    """Texts to hidden states of the chosen layer; the model is loaded when the first one is computed."""

    def __init__(self, stored: Stored, features: FeatureConfig, problems: Problems):
        from tokenizers import Tokenizer

        path = stored.folder / SOURCE / "tokenizer.json"
        if not path.exists():
            raise UserError(f"{path}: expected a tokenizer, got none; put it into the Hugging Face folder and convert again")
        self.words, self.stored, self.features = Tokenizer.from_file(str(path)), stored, features
        self.tasks = {arc_text.write(s.shown, features.style).text: s.shown for s in problems.samples}
        self.dropped = 0
        count = stored.config.layers
        if not -1 <= features.layer <= count:
            raise UserError(f"experiment.features.layer: expected -1 to {count}, got {features.layer}; change it")

    @cache
    def _fitted(self, text: str) -> tuple[arc_text.Text, Any]:
        """The prompt as it is given and its encoding; demonstrations left out, the last first, where drop allows it."""
        task, f = self.tasks[text], self.features
        while True:
            written = arc_text.write(task, f.style)
            encoded = self.words.encode(written.text)
            if len(encoded.ids) <= f.limit or not (f.drop and task.train):
                arc_text.fitted(task, f.style, f.limit, len(encoded.ids))
                return written, encoded
            task = Task(task.id, task.source, task.train[:-1], task.test)
            self.dropped += 1

    def length(self, text: str) -> int:
        return len(self._fitted(text)[1].ids)

    @cache
    def _model(self) -> Any:
        layer = self.features.layer
        dtype = STORED.get(self.stored.manifest.storage, jnp.bfloat16)
        return self.stored.model(dtype, None if layer == -1 else layer)

    def compute(self, text: str) -> Entry:
        """One prompt, alone, padded on the right: what comes later changes nothing before it."""
        written, encoded = self._fitted(text)
        ids = np.array(encoded.ids, np.int32)
        padded = np.pad(ids, (0, -len(ids) % PIECE))[None]
        hidden = self._model().hidden(jnp.asarray(padded), self.features.layer)[0, : len(ids)]
        kept = np.asarray(jax.device_get(hidden)).astype(ml_dtypes.bfloat16)
        return Entry(kept, arc_text.cell_tokens(written, encoded.offsets))


def identity(stored: Stored, features: FeatureConfig) -> Identity:
    return Identity(
        llama=stored.manifest.fingerprint,
        tokenizer=stored.manifest.tokenizer,
        layer=features.layer,
        width=stored.config.width,
        style=features.style,
        limit=features.limit,
        drop=features.drop,
    )


def extract(config: HybridConfig, say: Any = print) -> int:
    """Fill the cache of a configuration; what is there stays. Returns the prompts that were computed."""
    f = config.features
    if not f.llama or not f.cache:
        raise UserError(
            "experiment.features: expected llama (a converted folder) and cache (a folder to write), got "
            f"llama: '{f.llama}', cache: '{f.cache}'; name both"
        )
    stored = open_store(Path(f.llama))
    if config.model.features not in (0, stored.config.width):
        raise UserError(
            f"experiment.model.features: expected the width {stored.config.width} of {f.llama}, got {config.model.features}; "
            "set it to that"
        )
    problems = draw(config.data)
    reader = Reader(stored, f, problems)
    for text in reader.tasks:
        reader.length(text)  # every prompt is measured before the weights are read
    if reader.dropped:
        say(f"{reader.dropped} demonstrations left out of prompts over {f.limit} tokens")
    cache = Cache.create(Path(f.cache), identity(stored, f))
    return fill(cache, reader.tasks, reader.compute, reader.length, say)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m jaxsrc.extract", description=__doc__)
    parser.add_argument("config", metavar="CONFIG")
    parser.add_argument("override", nargs="*", metavar="key=value")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda", "metal"], default="auto")
    args = parser.parse_args(arguments)
    loaded = configuration.load(RunConfig, args.config, args.override)
    if not isinstance(loaded.experiment, HybridConfig):
        raise UserError(f"expected a configuration of kind hybrid, got {loaded.experiment.kind}; e.g. configs/hybrid_tiny.yaml")
    runtimes.start(replace(loaded.runtime, device=args.device))
    extract(loaded.experiment)
    return DONE


if __name__ == "__main__":
    command_line(main)
