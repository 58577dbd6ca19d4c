#!/usr/bin/env python3
"""Writes golden.txt: what NumPy says the structured ops give. Needs numpy; run it from this folder.

A case is its name, the inputs and the output, each as a shape and its values in row-major order:
    case sum_0
    in 3,4 : 1.0 2.0 ...
    out 1,4 : 15.0 ...
Inputs are halves of small integers, so that every floating type holds them exactly.
"""
import numpy as np

rng = np.random.default_rng(20240229)
cases = []


def x(*shape):
    return rng.integers(-8, 9, shape) / 2.0


def indices(high, *shape):
    return rng.integers(-high, high, shape)


def case(name, inputs, out):
    cases.append((name, [np.asarray(i) for i in inputs], np.asarray(out)))


def reductions():
    a = x(3, 4, 5)
    axes = {"0": 0, "1": 1, "2": 2, "02": (0, 2), "all": None}
    exact = {
        "sum": np.sum, "mean": np.mean, "max": np.max, "min": np.min,
        "prod": np.prod,
        "var": lambda v, axis, keepdims: np.var(v, axis=axis, keepdims=keepdims, ddof=1),
        "std": lambda v, axis, keepdims: np.std(v, axis=axis, keepdims=keepdims, ddof=1),
        "norm": lambda v, axis, keepdims: np.sqrt(np.sum(v * v, axis=axis, keepdims=keepdims)),
        "logsumexp": lambda v, axis, keepdims: np.log(np.sum(np.exp(v), axis=axis, keepdims=keepdims)),
        "any": np.any, "all": np.all,
    }
    for name, f in exact.items():
        for key, axis in axes.items():
            v = np.where(np.abs(a) < 1, 1.5, a) / 4 if name == "prod" else a
            if name in ("any", "all"):
                v = np.where(a > 0, a, 0) if name == "any" else np.where(a == 0, 0, 1) * 1.0
            case(f"{name}_{key}", [v], f(v, axis=axis, keepdims=axis is not None))
            case(f"{name}_{key}_drop", [v], f(v, axis=axis, keepdims=False))
    for key, axis in {"0": 0, "1": 1, "2": 2, "all": None}.items():
        case(f"argmax_{key}", [a], np.argmax(a, axis=axis))
        case(f"argmin_{key}", [a], np.argmin(a, axis=axis))
    e = np.exp(a)
    for axis in range(3):
        case(f"cumsum_{axis}", [a], np.cumsum(a, axis=axis))
        s = e / e.sum(axis=axis, keepdims=True)
        case(f"softmax_{axis}", [a], s)
        case(f"log_softmax_{axis}", [a], np.log(s))


def products():
    shapes = {
        "2d": ((3, 4), (4, 5)), "vector_matrix": ((4,), (4, 5)), "matrix_vector": ((3, 4), (4,)),
        "vectors": ((4,), (4,)), "batched": ((2, 3, 4), (2, 4, 5)), "broadcast": ((2, 1, 3, 4), (3, 4, 2)),
        "batch_by_matrix": ((2, 3, 4), (4, 5)), "matrix_by_batch": ((3, 4), (2, 4, 5)), "empty_inner": ((3, 0), (0, 2)),
        "large": ((33, 70), (70, 19)), "vector_batch": ((4,), (2, 4, 3)),
    }
    for name, (s, t) in shapes.items():
        a, b = x(*s), x(*t)
        case(f"matmul_{name}", [a, b], a @ b)
    a, b = x(6), x(6)
    case("dot", [a, b], a @ b)
    case("outer", [x(3) * 0 + np.array([1, -2, 0.5]), b], np.outer([1, -2, 0.5], b))
    einsums = {
        "ij,jk->ik": [(3, 4), (4, 5)], "ij,jk": [(3, 4), (4, 5)], "bij,bjk->bik": [(2, 3, 4), (2, 4, 5)],
        "ii->i": [(4, 4)], "ii": [(4, 4)], "ij->ji": [(3, 4)], "ijk->j": [(2, 3, 4)], "i,j->ij": [(3,), (4,)],
        "ij,ij->": [(3, 4), (3, 4)], "ij,ij->i": [(3, 4), (3, 4)], "...ij,...jk->...ik": [(2, 3, 4), (2, 4, 5)],
        "ij,jk,kl->il": [(2, 3), (3, 4), (4, 5)], "bhid,bhjd->bhij": [(2, 2, 3, 4), (2, 2, 5, 4)],
        "ijk,kl->lij": [(2, 3, 4), (4, 5)], "...i->...": [(2, 3, 4)], "ij,k->": [(2, 3), (4,)],
    }
    for n, (equation, shapes) in enumerate(einsums.items()):
        operands = [x(*s) for s in shapes]
        case(f"einsum {equation}", operands, np.einsum(equation, *operands))


def joins():
    a, b = x(2, 3, 4), x(2, 3, 4)
    for axis in range(3):
        case(f"cat_{axis}", [a, b], np.concatenate([a, b], axis))
        case(f"flip_{axis}", [a], np.flip(a, axis))
        case(f"roll_{axis}", [a], np.roll(a, 3, axis))
        case(f"roll_back_{axis}", [a], np.roll(a, -1, axis))
    for axis in range(4):
        case(f"stack_{axis}", [a, b], np.stack([a, b], axis))
        case(f"expand_dims_{axis}", [a], np.expand_dims(a, axis))
    case("repeat", [a], np.tile(a, (2, 1, 3)))
    case("repeat_leading", [a], np.tile(a, (3, 1, 2, 1)))
    case("pad", [a], np.pad(a, ((1, 0), (0, 2), (1, 1))))
    case("pad_value", [a], np.pad(a, ((0, 1), (2, 0), (0, 0)), constant_values=1.5))
    case("movedim_0_2", [a], np.moveaxis(a, 0, 2))
    case("movedim_2_0", [a], np.moveaxis(a, 2, 0))
    case("permute", [a], np.transpose(a, (2, 0, 1)))
    case("transpose", [a], np.swapaxes(a, 1, 2))
    case("transpose_0_2", [a], np.swapaxes(a, 0, 2))
    case("reshape", [a], a.reshape(4, 6))
    case("flatten_0_1", [a], a.reshape(6, 4))
    case("slice_step", [a], a[:, :, 1::2])
    case("slice_reverse", [a], a[:, :, ::-2])
    case("slice_negative", [a], a[:, -2:-1])
    case("slice_huge", [a], a[:, :, -100:100:3])
    case("slice_empty", [a], a[:, 2:1])
    case("select", [a], a[:, -1])
    case("narrow", [a], a[:, 1:3])
    s = x(1, 3, 1)
    case("squeeze", [s], s.squeeze())
    case("squeeze_0", [s], s.squeeze(0))
    case("broadcast_to", [x(3, 1) * 0 + np.array([[1], [2], [3]])], np.broadcast_to(np.array([[1], [2], [3]]), (2, 3, 4)))
    for n, piece in enumerate(np.split(a, [2], axis=1)):
        case(f"split_{n}", [a], piece)
    for n, piece in enumerate(np.array_split(x(1) * 0 + np.arange(7.0), [3, 6])):
        case(f"chunk_{n}", [np.arange(7.0)], piece)
    m = x(4, 5)
    for k in (-1, 0, 2):
        case(f"tril_{k}", [m], np.tril(m, k))
        case(f"triu_{k}", [m], np.triu(m, k))
        case(f"diagonal_{k}", [m], np.diagonal(m, k))


def indexing():
    a = x(3, 4, 5)
    i = indices(4, 6)
    case("index_select", [a, i], np.take(a, i, axis=1))
    for axis in range(3):
        shape = [3, 4, 5]
        shape[axis] = 7
        g = indices(a.shape[axis], *shape)
        case(f"gather_{axis}", [a, g], np.take_along_axis(a, g, axis))
        source = x(*shape)
        added, put = a.copy(), a.copy()
        for place in np.ndindex(*shape):
            to = list(place)
            to[axis] = g[place]
            added[tuple(to)] += source[place]
            put[tuple(to)] = source[place]
        case(f"scatter_add_{axis}", [a, g, source], added)
        case(f"scatter_{axis}", [a, g, source], put)
        case(f"sort_{axis}", [a], np.sort(a, axis, kind="stable"))
        case(f"argsort_{axis}", [a], np.argsort(a, axis, kind="stable"))
        case(f"sort_descending_{axis}", [a], -np.sort(-a, axis, kind="stable"))
        case(f"argsort_descending_{axis}", [a], np.argsort(-a, axis, kind="stable"))
        case(f"topk_{axis}", [a], np.take(-np.sort(-a, axis, kind="stable"), [0, 1], axis))
    mask = rng.integers(0, 2, (3, 4, 5))
    case("masked_select", [a, mask], a[mask != 0])
    case("masked_fill", [a, mask], np.where(mask != 0, -2.5, a))
    lead = rng.integers(0, 2, (3, 4))
    case("by_mask", [a, lead], a[lead != 0])
    j = indices(3, 2, 2)
    case("by_index", [a, j], a[j])
    k = indices(4, 2)
    case("take", [a, j, k], a[j, k])
    case("nonzero", [a], np.argwhere(a))
    labels = rng.integers(0, 5, (2, 3))
    case("one_hot", [labels], np.eye(5)[labels])


def linear_algebra():
    for name, batch in {"matrix": (), "batched": (2, 3)}.items():
        a, b = x(*batch, 4, 4) + 10 * np.eye(4), x(*batch, 4, 3)
        case(f"solve_{name}", [a, b], np.linalg.solve(a, b))
        case(f"inv_{name}", [a], np.linalg.inv(a))
        case(f"det_{name}", [a], np.linalg.det(a))
        sign, log = np.linalg.slogdet(-a)
        case(f"slogdet_sign_{name}", [-a], sign)
        case(f"slogdet_log_{name}", [-a], log)
        s = a + np.swapaxes(a, -1, -2)
        case(f"cholesky_{name}", [s], np.linalg.cholesky(s))
    a, b = x(2, 1, 3, 3) + 8 * np.eye(3), x(2, 3, 2)
    case("solve_broadcast", [a, b], np.linalg.solve(a, b))
    b = x(3)
    case("solve_vector", [a, b], np.linalg.solve(a, np.broadcast_to(b[:, None], (2, 1, 3, 1)))[..., 0])


def sgd(p, gradients, lr, momentum=0, dampening=0, weight_decay=0, nesterov=False):
    velocity = None
    for g in gradients:
        g = g + weight_decay * p
        velocity = g if velocity is None else momentum * velocity + (1 - dampening) * g
        p = p - lr * (g + momentum * velocity if nesterov else velocity if momentum else g)
    return p


def adam(p, gradients, lr, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0, decoupled_decay=0):
    m = v = np.zeros_like(p)
    for t, g in enumerate(gradients, 1):
        p = p - lr * decoupled_decay * p
        g = g + weight_decay * p
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        p = p - lr * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)
    return p


def optimisers():
    p, gradients = x(3, 5), [x(3, 5) for _ in range(4)]
    for name, out in {
        "sgd": sgd(p, gradients, 0.1),
        "sgd_momentum": sgd(p, gradients, 0.1, momentum=0.9, dampening=0.25, weight_decay=0.05),
        "sgd_nesterov": sgd(p, gradients, 0.05, momentum=0.8, weight_decay=0.1, nesterov=True),
        "adam": adam(p, gradients, 0.1),
        "adam_options": adam(p, gradients, 0.05, 0.8, 0.95, 1e-3, weight_decay=0.1),
        "adamw": adam(p, gradients, 0.1, decoupled_decay=0.01),
        "adamw_options": adam(p, gradients, 0.05, 0.7, 0.9, 1e-4, decoupled_decay=0.2),
    }.items():
        case(name, [p, *gradients], out)
    gradients = [x(3, 4), x(5), x(2, 1, 3)]
    joined = np.concatenate([g.reshape(-1) for g in gradients])
    norm = np.linalg.norm(joined)
    for name, limit in {"clip_grad_norm": 2.5, "clip_grad_norm_below": 100}.items():
        case(name, gradients, np.append(joined * min(1, limit / norm), norm))


reductions()
products()
joins()
indexing()
linear_algebra()
optimisers()


def line(word, v):
    shape = ",".join(str(n) for n in v.shape) or "-"
    return f"{word} {shape} : " + " ".join(repr(float(e)) for e in v.reshape(-1))


with open("golden.txt", "w") as file:
    file.write(f"# NumPy {np.__version__}, by make_golden.py\n")
    for name, inputs, out in cases:
        file.write(f"case {name}\n")
        for i in inputs:
            file.write(line("in", i) + "\n")
        file.write(line("out", out) + "\n")
