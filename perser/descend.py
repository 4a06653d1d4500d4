"""The inner loop: gradient descent on inner products, and the exact gradient through it.

Small matrices only, whatever the widths of features and hidden layer are. On a CPU the loop is descend.c, built by the
machine's compiler when it is first asked for and kept in the user's cache; on other devices, for large supports and
where there is no compiler it is the same by torch.
"""

import ctypes
import hashlib
import logging
import os
import shlex
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

SOURCE = Path(__file__).with_suffix(".c")
FLAGS = ("-std=c11", "-O2", "-ffp-contract=off", "-fPIC", "-shared")
SHOTS = 64  # of the largest support that is done in C: a library's products are faster on larger matrices
log = logging.getLogger(__name__)
REALS = {torch.float32: "float", torch.float64: "double"}


@cache
def compiled(real: str) -> ctypes.CDLL | None:
    """descend.c for float or double; None where it has not been built and no compiler can build it."""
    key = hashlib.sha256(repr((SOURCE.read_bytes(), FLAGS, real, os.uname().machine)).encode()).hexdigest()[:16]
    with tempfile.TemporaryDirectory() as elsewhere:  # for want of a folder to keep it in, or that code may lie in
        for folder in (os.environ.get("XDG_CACHE_HOME") or "~/.cache", elsewhere):
            try:
                return ctypes.CDLL(str(_built(real, Path(folder).expanduser() / "perser" / f"descend-{key}.so")))
            except (OSError, RuntimeError) as error:
                log.info("descend.c: %s", error)
            except subprocess.CalledProcessError as error:
                said = error.stderr.decode(errors="replace").strip().partition("\n")[0]
                log.warning("descend.c: not compiled, the inner loop runs by torch, slower: %s", said)
                return None
    return None


def _built(real: str, library: Path) -> Path:
    """The library, built unless it is there: whole or not at all, whoever else builds it meanwhile."""
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True)
        compiler = shlex.split(os.environ.get("CC") or "cc")
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            half = Path(folder) / library.name
            subprocess.run([*compiler, *FLAGS, f"-DREAL={real}", "-o", half, SOURCE, "-lm"], check=True,
                           capture_output=True)
            half.replace(library)
    return library


def way(*numbers: Tensor) -> str:
    """How the inner loop runs on these: C or torch."""
    (device, real), *others = {(each.device.type, REALS.get(each.dtype)) for each in numbers}
    return "C" if not others and device == "cpu" and real and compiled(real) else "torch"


class Compiled(Function):
    """See `descend`; by descend.c, which keeps what a backward pass needs as lanes of several episodes."""

    @staticmethod
    def forward(context, gram, inner, a, rates, mass, wanted, second_order, every):
        """Gradient descent in coefficients: A, h start as the identity."""
        episodes, shots, classes = wanted.shape
        basis, keep, lanes = classes + shots, any(context.needs_input_grad), 32 // a.element_size()
        groups = -(-episodes // lanes)
        given = [each.contiguous() for each in (gram, inner, a, rates, mass, wanted)]
        kept = a.new_empty((groups * len(rates) if keep else 1) * 2 * (basis * basis + shots * classes) * lanes)
        states = len(rates) + 1 if every else 1
        d, b, A, a = (a.new_empty(states, episodes, *shape) for shape in (
            (shots, basis), (1, basis), (classes, basis), (1, classes)))
        sizes = episodes, shots, classes, len(rates), every
        _call("forward", a, *sizes, keep, *given, kept, d, b, A, a)
        A.diagonal(dim1=-2, dim2=-1).sub_(1)
        if keep:
            context.save_for_backward(*given[:2], *given[3:5], kept)
        context.rest = sizes, second_order, groups
        return d, b, A, a

    @staticmethod
    @once_differentiable
    def backward(context, *given):
        """The same lines backwards; in first order only the rates and a are reached."""
        gram, inner, rates, mass, kept = context.saved_tensors
        sizes, second_order, groups = context.rest
        to_gram, to_inner = torch.empty_like(gram), torch.empty_like(inner)
        to_a, to_rates = torch.empty_like(given[-1][-1]), rates.new_empty(groups, *rates.shape)
        _call("backward", rates, *sizes, second_order, gram, inner, rates, mass, kept,
              *(each.contiguous() for each in given), to_gram, to_inner, to_a, to_rates)
        return to_gram, to_inner, to_a, to_rates.sum(0), None, None, None, None


def _call(name: str, like: Tensor, *arguments: int | Tensor) -> None:
    """A function of descend.c, for the numbers that `like` holds."""
    passed = [ctypes.c_void_p(each.data_ptr()) if isinstance(each, Tensor) else int(each) for each in arguments]
    if getattr(compiled(REALS[like.dtype]), name)(*passed):
        raise MemoryError("no memory for the inner loop")


class ByTorch(Function):
    """See `descend`; on any device."""

    @staticmethod
    def forward(context, gram, inner, a, rates, mass, wanted, second_order, every):
        """Gradient descent in coefficients: A, h start as the identity."""
        episodes, shots, classes = wanted.shape
        identity = torch.eye(classes + shots, dtype=a.dtype, device=a.device).expand(episodes, -1, -1)
        A, h = identity[:, :classes], identity[:, classes:]
        d, b, steps = torch.zeros_like(h), torch.zeros_like(h[:, :1]), []
        states = [(d, b, A, a)]
        for _, rate_P, rate_b, rate_A, rate_a in rates.tolist():
            against = inner @ A.mT
            p = torch.baddbmm(a.expand(-1, shots, -1), h, against).softmax(-1)
            error = torch.addcmul(-wanted, p, mass)
            delta = error @ A
            down_b, down_a = delta.sum(1, keepdim=True), error.sum(1, keepdim=True)
            steps.append((A, h, against, p, error, delta, down_b, down_a))
            d, b = d.add(delta, alpha=rate_P), b.sub(down_b, alpha=rate_b)
            a = a.sub(down_a, alpha=rate_a)
            A, h = (torch.baddbmm(A, error.mT, h, alpha=-rate_A),
                    torch.baddbmm(h, gram, delta, alpha=-rate_P).sub_(down_b, alpha=rate_b))
            states.append((d, b, A, a))
        context.steps, context.rates, context.second_order = steps, rates, second_order
        context.save_for_backward(gram, inner, mass)
        d, b, A, a = map(torch.stack, zip(*(states if every else states[-1:])))
        return d, b, A - identity[:, :classes], a

    @staticmethod
    @once_differentiable
    def backward(context, *given):
        """The same lines backwards; in first order only the rates and a are reached."""
        gram, inner, mass = context.saved_tensors
        to_gram, to_inner, to_rates = torch.zeros_like(gram), torch.zeros_like(inner), torch.zeros_like(context.rates)
        to_h, given = torch.zeros_like(given[0][-1]), list(zip(*given))
        to_d, to_b, to_A, to_a = given.pop()
        rates = context.rates.tolist()
        for step in reversed(range(len(rates))):
            _, rate_P, rate_b, rate_A, rate_a = rates[step]
            A, h, against, p, error, delta, down_b, down_a = context.steps[step]
            from_P, from_b = torch.baddbmm(to_d, gram.mT, to_h, alpha=-1), to_b + to_h.sum(1, keepdim=True)
            from_A = h @ to_A.mT  # (E, K, C)
            moved = (from_P, delta), (from_b, down_b), (from_A, error), (to_a, down_a)
            to_rates[step, 1:] = torch.stack([to.flatten() @ by.flatten() for to, by in moved])
            if context.second_order:
                to_delta = from_P.mul_(rate_P).sub_(from_b, alpha=rate_b)
                to_error = torch.baddbmm(to_a * -rate_a + from_A * -rate_A, to_delta, A.mT).mul_(mass)
                to_z = p * (to_error - (p * to_error).sum(-1, keepdim=True))
                to_against = h.mT @ to_z  # (E, C + K, C)
                to_gram.baddbmm_(to_h, delta.mT, alpha=-rate_P)
                to_inner.baddbmm_(to_against, A)
                to_h = torch.baddbmm(to_h, error, to_A, alpha=-rate_A).baddbmm_(to_z, against.mT)
                to_A = torch.baddbmm(to_A, error.mT, to_delta).baddbmm_(to_against.mT, inner)
                to_a = to_a + to_z.sum(1, keepdim=True)
            if given:
                to_d, to_b, to_A, to_a = (to + by for to, by in zip((to_d, to_b, to_A, to_a), given.pop()))
        to_rates[:, 2:].neg_()
        return to_gram, to_inner, to_a, to_rates, None, None, None, None


def descend(gram: Tensor, inner: Tensor, a: Tensor, rates: Tensor, mass: Tensor, wanted: Tensor,
            second_order: bool, every: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """All steps of gradient descent on the support loss from its inner products.

    gram (E, K, K) of x, inner (E, C + K, C + K) of the basis [A; h], a (E, 1, C), rates (steps, tensors);
    mass (E, K, 1) and wanted (E, K, C): what the softmax is multiplied with and what is taken from it in the loss'
    gradient.
    Returns d, b, A and a after the last step, as in adapt.Adapted, with a leading dimension of one; with every before
    the first step and after each one. Raises MemoryError where the machine has none left for its working arrays.
    """
    given = gram, inner, a, rates, mass, wanted
    by_c = wanted.shape[1] <= SHOTS and way(*given) == "C"
    return (Compiled if by_c else ByTorch).apply(*given, second_order, every)
