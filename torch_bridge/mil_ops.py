"""Operations of MIL in numpy, each as its documentation defines it, on wide numbers; `mil_eval` rounds where types say so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import erf, expit

Args = dict[str, Any]


def _ints(x: Any) -> list[int]:
    return [int(v) for v in np.atleast_1d(x)]


def _axes(a: Args, x: np.ndarray) -> tuple[int, ...]:
    return tuple(_ints(a["axes"])) if a.get("axes") is not None else tuple(range(x.ndim))


def _reduce(f: Callable) -> Callable[[Args], np.ndarray]:
    return lambda a: f(a["x"], axis=_axes(a, a["x"]), keepdims=bool(a.get("keep_dims", False)))


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def gelu(a: Args) -> np.ndarray:
    x, mode = a["x"], a.get("mode", "EXACT")
    if mode == "EXACT":
        return 0.5 * x * (1 + erf(x / np.sqrt(2)))
    if mode == "TANH_APPROXIMATION":
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return x * expit(1.702 * x)


def layer_norm(a: Args) -> np.ndarray:
    x, axes = a["x"], tuple(_ints(a["axes"]))
    y = x - x.mean(axes, keepdims=True)
    y = y / np.sqrt((y * y).mean(axes, keepdims=True) + a["epsilon"])
    shape = [x.shape[i] if i in {k % x.ndim for k in axes} else 1 for i in range(x.ndim)]
    y = y if a.get("gamma") is None else y * a["gamma"].reshape(shape)
    return y if a.get("beta") is None else y + a["beta"].reshape(shape)


def matmul(a: Args) -> np.ndarray:
    x, y = a["x"], a["y"]
    x = x.swapaxes(-1, -2) if a.get("transpose_x", False) else x
    return x @ (y.swapaxes(-1, -2) if a.get("transpose_y", False) else y)


def linear(a: Args) -> np.ndarray:
    out = a["x"] @ a["weight"].T
    return out if a.get("bias") is None else out + a["bias"]


def attention(a: Args) -> np.ndarray:
    q, k, v, mask = a["query"], a["key"], a["value"], a.get("attn_mask")
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
    if mask is not None:
        scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask
    return softmax(scores, -1) @ v


def slice_by_index(a: Args) -> np.ndarray:
    x = a["x"]
    none = [False] * x.ndim
    begin, end = _ints(a["begin"]), _ints(a["end"])
    stride = _ints(a["stride"]) if a.get("stride") is not None else [1] * x.ndim
    masks = [list(np.atleast_1d(a[n])) if a.get(n) is not None else none for n in ("begin_mask", "end_mask", "squeeze_mask")]
    where: list[Any] = []
    for i in range(x.ndim):
        if masks[2][i]:
            where.append(begin[i])
        else:
            where.append(slice(None if masks[0][i] else begin[i], None if masks[1][i] else end[i], stride[i]))
    return x[tuple(where)]


def slice_by_size(a: Args) -> np.ndarray:
    begin, size = _ints(a["begin"]), _ints(a["size"])
    return a["x"][tuple(slice(b, None if n == -1 else b + n) for b, n in zip(begin, size, strict=True))]


def split(a: Args) -> list[np.ndarray]:
    x, axis = a["x"], int(a["axis"])
    if a.get("split_sizes") is not None:
        return np.split(x, np.cumsum(_ints(a["split_sizes"]))[:-1], axis)
    return np.split(x, int(a["num_splits"]), axis)


def pad(a: Args) -> np.ndarray:
    x, p = a["x"], _ints(a["pad"])
    widths = [(0, 0)] * (x.ndim - len(p) // 2) + [(p[i], p[i + 1]) for i in range(0, len(p), 2)]
    mode = a.get("mode", "constant")
    if mode == "constant":
        return np.pad(x, widths, constant_values=a.get("constant_val", 0))
    return np.pad(x, widths, mode="reflect" if mode == "reflect" else "edge")


def conv(a: Args) -> np.ndarray:
    """Two-dimensional, NCHW; weight [out, in / groups, kh, kw]."""
    x, w = a["x"], a["weight"]
    strides, dilations = _ints(a.get("strides", [1, 1])), _ints(a.get("dilations", [1, 1]))
    groups = int(a.get("groups", 1))
    extent = [(k - 1) * d + 1 for k, d in zip(w.shape[2:], dilations, strict=True)]
    kind = a.get("pad_type", "valid")
    if kind == "custom":
        p = _ints(a["pad"])
    elif kind == "valid":
        p = [0, 0, 0, 0]
    else:
        p = []
        for size, e, s in zip(x.shape[2:], extent, strides, strict=True):
            total = max((-(-size // s) - 1) * s + e - size, 0)
            p += [total // 2, total - total // 2] if kind == "same" else [total - total // 2, total // 2]
    x = np.pad(x, [(0, 0), (0, 0), (p[0], p[1]), (p[2], p[3])])
    windows = np.lib.stride_tricks.sliding_window_view(x, tuple(extent), axis=(2, 3))  # pyright: ignore
    windows = windows[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]
    parts = zip(np.split(windows, groups, 1), np.split(w, groups, 0), strict=True)
    out = np.concatenate([np.einsum("nchwij,ocij->nohw", part, kernel) for part, kernel in parts], 1)
    return out if a.get("bias") is None else out + a["bias"][:, None, None]


def reshape(a: Args) -> np.ndarray:
    x, shape = a["x"], _ints(a["shape"])
    return x.reshape([x.shape[i] if s == 0 else s for i, s in enumerate(shape)])


def band_part(a: Args) -> np.ndarray:
    x, low, high = a["x"], int(a.get("lower", -1)), int(a.get("upper", -1))
    i, j = np.indices(x.shape[-2:])
    return np.where(((low < 0) | (i - j <= low)) & ((high < 0) | (j - i <= high)), x, 0)


def expand_dims(a: Args) -> np.ndarray:
    return np.expand_dims(a["x"], tuple(_ints(a["axes"])))


def squeeze(a: Args) -> np.ndarray:
    return np.squeeze(a["x"], tuple(_ints(a["axes"])) if a.get("axes") is not None else None)


def gather(a: Args) -> np.ndarray:
    return np.take(a["x"], a["indices"].astype(np.int64), int(a.get("axis", 0)))


def concat(a: Args) -> np.ndarray:
    return np.concatenate([np.atleast_1d(v) for v in a["values"]], int(a["axis"]))


def range_1d(a: Args) -> np.ndarray:
    return np.arange(a["start"], a["end"], a["step"])


def topk(a: Args) -> list[np.ndarray]:
    x, k, axis = a["x"], int(a["k"]), int(a.get("axis", -1))
    order = np.argsort(x if a.get("ascending", False) else -x, axis, kind="stable").take(range(k), axis)
    return [np.take_along_axis(x, order, axis), order.astype(np.int32)]


# constants that are stored compressed


def affine_dequantize(a: Args) -> np.ndarray:
    q, axis = a["quantized_data"], int(a["axis"])
    shape = [-1 if i == axis % q.ndim else 1 for i in range(q.ndim)]
    fit = lambda v: np.reshape(v, shape) if np.size(v) > 1 else np.reshape(v, ())
    return (q.astype(np.float64) - fit(a["zero_point"]).astype(np.float64)) * fit(a["scale"]).astype(np.float64)


def _blocks(v: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    for axis, (have, want) in enumerate(zip(v.shape, shape, strict=True)):
        v = np.repeat(v, want // have, axis)
    return v


def blockwise_shift_scale(a: Args) -> np.ndarray:
    data = a["data"].astype(np.float64)
    if a.get("offset") is not None:
        data = data - _blocks(a["offset"].astype(np.float64), data.shape)
    return data * _blocks(a["scale"].astype(np.float64), data.shape)


def lut_to_dense(a: Args) -> np.ndarray:
    """Before iOS 18 packed indices and a shape; from then on a table for each block of the indices."""
    from torch_bridge.mil_blob import unpack_bits

    lut, indices = a["lut"], a["indices"]
    if a.get("shape") is not None:
        shape = tuple(_ints(a["shape"]))
        bits = int(np.log2(len(lut)))
        return lut[unpack_bits(indices, bits, int(np.prod(shape)), False)].reshape(shape)
    out = np.empty(indices.shape, np.float64)
    blocks = lut.shape[: indices.ndim]
    sizes = [n // b for n, b in zip(indices.shape, blocks, strict=True)]
    for at in np.ndindex(blocks):
        where = tuple(slice(i * s, (i + 1) * s) for i, s in zip(at, sizes, strict=True))
        out[where] = lut[at][:, 0][indices[where]]
    return out


OPS: dict[str, Callable[[Args], Any]] = {
    "identity": lambda a: a["x"],
    "add": lambda a: a["x"] + a["y"],
    "sub": lambda a: a["x"] - a["y"],
    "mul": lambda a: a["x"] * a["y"],
    "real_div": lambda a: a["x"] / a["y"],
    "floor_div": lambda a: np.floor_divide(a["x"], a["y"]),
    "mod": lambda a: np.mod(a["x"], a["y"]),
    "pow": lambda a: a["x"] ** a["y"],
    "maximum": lambda a: np.maximum(a["x"], a["y"]),
    "minimum": lambda a: np.minimum(a["x"], a["y"]),
    "equal": lambda a: a["x"] == a["y"],
    "not_equal": lambda a: a["x"] != a["y"],
    "less": lambda a: a["x"] < a["y"],
    "less_equal": lambda a: a["x"] <= a["y"],
    "greater": lambda a: a["x"] > a["y"],
    "greater_equal": lambda a: a["x"] >= a["y"],
    "logical_and": lambda a: np.logical_and(a["x"], a["y"]),
    "logical_or": lambda a: np.logical_or(a["x"], a["y"]),
    "logical_not": lambda a: np.logical_not(a["x"]),
    "select": lambda a: np.where(a["cond"], a["a"], a["b"]),
    "abs": lambda a: np.abs(a["x"]),
    "exp": lambda a: np.exp(a["x"]),
    "log": lambda a: np.log(a["x"] + a.get("epsilon", 0)),
    "sqrt": lambda a: np.sqrt(a["x"]),
    "rsqrt": lambda a: 1 / np.sqrt(a["x"] + a.get("epsilon", 1e-12)),
    "inverse": lambda a: 1 / (a["x"] + a.get("epsilon", 1e-4)),
    "square": lambda a: a["x"] * a["x"],
    "sin": lambda a: np.sin(a["x"]),
    "cos": lambda a: np.cos(a["x"]),
    "sign": lambda a: np.sign(a["x"]),
    "tanh": lambda a: np.tanh(a["x"]),
    "sigmoid": lambda a: expit(a["x"]),
    "relu": lambda a: np.maximum(a["x"], 0),
    "silu": lambda a: a["x"] * expit(a["x"]),
    "softplus": lambda a: np.logaddexp(0, a["x"]),
    "erf": lambda a: erf(a["x"]),
    "gelu": gelu,
    "clip": lambda a: np.clip(a["x"], a["alpha"], a["beta"]),
    "softmax": lambda a: softmax(a["x"], int(a.get("axis", -1))),
    "reduce_sum": _reduce(np.sum),
    "reduce_mean": _reduce(np.mean),
    "reduce_max": _reduce(np.max),
    "reduce_min": _reduce(np.min),
    "reduce_sum_square": lambda a: np.sum(a["x"] ** 2, _axes(a, a["x"]), keepdims=bool(a.get("keep_dims", False))),
    "reduce_l2_norm": lambda a: np.sqrt(np.sum(a["x"] ** 2, _axes(a, a["x"]), keepdims=bool(a.get("keep_dims", False)))),
    "reduce_log_sum_exp": lambda a: np.log(np.exp(a["x"]).sum(_axes(a, a["x"]), keepdims=bool(a.get("keep_dims", False)))),
    "reduce_argmax": lambda a: np.argmax(a["x"], int(a.get("axis", -1)), keepdims=bool(a.get("keep_dims", False))),
    "cumsum": lambda a: np.cumsum(a["x"], int(a.get("axis", 0))),
    "layer_norm": layer_norm,
    "matmul": matmul,
    "linear": linear,
    "conv": conv,
    "scaled_dot_product_attention": attention,
    "gather": gather,
    "gather_along_axis": lambda a: np.take_along_axis(a["x"], a["indices"], int(a.get("axis", 0))),
    "topk": topk,
    "reshape": reshape,
    "transpose": lambda a: a["x"].transpose(_ints(a["perm"])),
    "expand_dims": expand_dims,
    "squeeze": squeeze,
    "concat": concat,
    "stack": lambda a: np.stack(a["values"], int(a["axis"])),
    "split": split,
    "tile": lambda a: np.tile(a["x"], _ints(a["reps"])),
    "pad": pad,
    "band_part": band_part,
    "reverse": lambda a: np.flip(a["x"], tuple(_ints(a["axes"]))),
    "slice_by_index": slice_by_index,
    "slice_by_size": slice_by_size,
    "shape": lambda a: np.asarray(a["x"].shape, np.int32),
    "fill": lambda a: np.full(_ints(a["shape"]), a["value"]),
    "fill_like": lambda a: np.full(a["ref_tensor"].shape, a["value"]),
    "range_1d": range_1d,
    "constexpr_affine_dequantize": affine_dequantize,
    "constexpr_blockwise_shift_scale": blockwise_shift_scale,
    "constexpr_lut_to_dense": lut_to_dense,
}
