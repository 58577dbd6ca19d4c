"""PyTorch's Python front end, as worker.hpp: the rows where its overhead shows, under their names."""
import json
import math
import sys
import time

import torch
import torch.nn.functional as F

torch.set_num_threads(int(sys.argv[1]))


def body(f, *operands):
    return lambda: f(*operands)


def leaf(*shape):
    return torch.randn(*shape, requires_grad=True)


def squares(n):
    x = leaf(n)

    def run():
        (x * x).sum().backward()
        x.grad = None
    return run


def chain(n):
    x = torch.full((n,), 1.01, requires_grad=True)
    ones = torch.ones(n)

    def run():
        y = x
        for _ in range(20):
            y = y * x
        y.backward(ones)
        x.grad = None
    return run


def mlp(sizes, batch, adam, loss):
    weights = [(torch.randn(o, i) / math.sqrt(i)).requires_grad_() for i, o in zip(sizes, sizes[1:])]
    biases = [torch.zeros(o, requires_grad=True) for o in sizes[1:]]
    if adam:
        optimizer = torch.optim.Adam(weights + biases, lr=1e-3)
    else:
        optimizer = torch.optim.SGD(weights + biases, lr=0.01)
    x = torch.randn(batch, sizes[0])
    y = torch.randint(sizes[-1], (batch,)) if loss is F.cross_entropy else torch.rand(batch, sizes[-1])

    def run():
        h = x
        for i, (w, b) in enumerate(zip(weights, biases)):
            h = F.linear(h, w, b)
            if i + 1 < len(weights):
                h = F.relu(h)
        loss(h, y).backward()
        optimizer.step()
        optimizer.zero_grad()
    return run


rows = []


def row(group, name, setup):
    rows.append((group, name, setup))


for n in (1, 8, 1024):
    at = f" {{{n}}}"
    row("small", "add" + at, lambda n=n: body(torch.add, torch.randn(n), torch.randn(n)))
    row("small", "exp" + at, lambda n=n: body(torch.exp, torch.randn(n)))
    row("small", "x*x recorded" + at, lambda n=n: body(lambda x: x * x, leaf(n)))
    row("small", "sum(x*x) fwd+bwd" + at, lambda n=n: squares(n))
    row("small", "20 mul fwd+bwd" + at, lambda n=n: chain(n))
row("small", "MLP 4-16-16-1 batch 8 step", lambda: mlp((4, 16, 16, 1), 8, False, F.mse_loss))
for n in (16, 32, 64, 128, 256):
    row("matmul", f"fp32 {n} NN",
        lambda n=n: body(torch.matmul, torch.randn(n, n), torch.randn(n, n)))
for batch in (128, 1024):
    for adam in (False, True):
        row("training", f"MLP 784-512-10 {'Adam' if adam else 'SGD'} batch {batch}",
            lambda b=batch, a=adam: mlp((784, 512, 10), b, a, F.cross_entropy))
row("training", "logistic regression 64 batch 32",
    lambda: mlp((64, 1), 32, False, F.binary_cross_entropy_with_logits))


def seconds_of(run, count):
    start = time.perf_counter()
    for _ in range(count):
        run()
    return time.perf_counter() - start


current, run, count = None, None, 1
for line in sys.stdin:
    command, *arguments = line.split()
    if command == "list":
        for group, name, _ in rows:
            print(json.dumps({"group": group, "name": name}))
        print()
    elif command == "time":
        index, seconds = int(arguments[0]), float(arguments[1])
        if index != current:
            current, run, count = index, rows[index][2](), 1
            run()
            while (took := seconds_of(run, count)) < seconds / 4:
                count *= 2
            count = max(1, round(count * seconds / took))
        print(seconds_of(run, count) / count)
    else:
        current = run = None
        print("dropped")
    sys.stdout.flush()
