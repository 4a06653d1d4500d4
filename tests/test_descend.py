"""The inner loop in C: the same as by torch and as finite differences say, wherever and by whatever it is built."""

import subprocess
import sys

import pytest
import torch

from perser import descend, provenance, seeds
from perser.descend import ByTorch, Compiled
from perser.head import TENSORS


@pytest.fixture(scope="module", autouse=True)
def _compiler():
    if not all(map(descend.compiled, descend.REALS.values())):
        pytest.skip("no C compiler")


@pytest.fixture
def anew(monkeypatch, tmp_path):
    """Nothing built and nothing remembered."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    descend.compiled.cache_clear()
    yield tmp_path / "cache" / "perser"
    descend.compiled.cache_clear()


def problem(episodes, shots, classes, steps, dtype=torch.float64):
    """gram, inner, a, rates; mass, wanted. Neither matrix is symmetric, so that a transpose too many shows."""
    g, basis = seeds.generator(0, "descend"), classes + shots

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype) / shape[-1] ** 0.5

    rates = torch.rand(steps, len(TENSORS), generator=g, dtype=torch.float64).to(dtype) / 10
    return ([normal(episodes, shots, shots), normal(episodes, basis, basis), normal(episodes, 1, classes), rates],
            [normal(episodes, shots, 1).exp(), normal(episodes, shots, classes)])


def both_ways(function, given, fixed, second_order, every):
    """States, and gradients for random ones of the states."""
    given = [each.clone().requires_grad_() for each in given]
    states = function.apply(*given, *fixed, second_order, every)
    g = seeds.generator(1, "given")
    towards = [torch.randn(state.shape, generator=g, dtype=torch.float64).to(state.dtype) for state in states]
    found = torch.autograd.grad(states, given, towards, allow_unused=True)
    return [*(state.detach() for state in states), *found]


def test_a_processor_takes_the_loop_in_c_for_supports_that_are_small(monkeypatch):
    assert [descend.way(torch.zeros(1, dtype=dtype)) for dtype in (torch.float32, torch.float64, torch.float16)] == [
        "C", "C", "torch"]
    assert descend.way(torch.zeros(1, device="meta")) == descend.way(torch.zeros(1), torch.zeros(1).double()) == "torch"
    monkeypatch.setattr(Compiled, "apply", lambda *_: "in C")
    monkeypatch.setattr(ByTorch, "apply", lambda *_: "by torch")
    for shots, how in ((1, "in C"), (64, "in C"), (65, "by torch")):
        given, fixed = problem(1, shots, 2, 1)
        assert descend.descend(*given, *fixed, True) == how


@pytest.mark.parametrize("second_order", [True, False])
@pytest.mark.parametrize("every", [True, False])
@pytest.mark.parametrize("size", [(1, 1, 2, 1), (4, 5, 9, 3), (5, 3, 4, 2), (19, 10, 8, 5), (9, 21, 3, 12),
                                  (3, 4, 5, 0)])
def test_it_is_the_loop_by_torch(size, every, second_order):
    """Fewer episodes than a vector has lanes, as many, and some over; columns that fill fours and that do not."""
    for mine, theirs in zip(*(both_ways(function, *problem(*size), second_order, every)
                              for function in (Compiled, ByTorch)), strict=True):
        assert mine.shape == theirs.shape
        assert not mine.numel() or (mine - theirs).abs().max() <= 1e-12 * theirs.abs().max().clamp(min=1)


def test_in_single_precision_too():
    ways = (Compiled, torch.float32), (ByTorch, torch.float64)
    for mine, theirs in zip(*(both_ways(function, *problem(19, 10, 8, 5, dtype), True, True)
                              for function, dtype in ways), strict=True):
        assert mine.dtype == torch.float32
        assert (mine - theirs).abs().max() < 1e-5 * theirs.abs().max().clamp(min=1)


@pytest.mark.parametrize("every", [True, False])
def test_gradients_equal_finite_differences(every):
    given, fixed = problem(5, 3, 4, 2)
    given = [each.requires_grad_() for each in given]
    assert torch.autograd.gradcheck(lambda *each: Compiled.apply(*each, *fixed, True, every), given)


def test_an_episode_has_the_same_bits_whatever_lies_in_the_other_lanes():
    (gram, inner, a, rates), fixed = problem(11, 6, 5, 4, torch.float32)
    together = Compiled.apply(gram, inner, a, rates, *fixed, True, True)
    for episode in range(11):
        part = slice(episode, episode + 1)
        alone = Compiled.apply(gram[part], inner[part], a[part], rates, *(each[part] for each in fixed), True, True)
        assert all(torch.equal(one[:, 0], all_of_them[:, episode]) for one, all_of_them in zip(alone, together))


def test_an_older_processor_gives_the_same_bits(anew, monkeypatch):
    """One without the wide registers: the plain variant alone is built."""
    given, fixed = problem(19, 10, 8, 5, torch.float32)
    here = both_ways(Compiled, given, fixed, True, True)
    monkeypatch.setattr(descend, "FLAGS", (*descend.FLAGS, "-DFOR_EACH_PROCESSOR="))
    descend.compiled.cache_clear()
    assert all(map(torch.equal, here, both_ways(Compiled, given, fixed, True, True))) and len(list(anew.iterdir())) == 2


def test_without_a_backward_pass_it_keeps_one_step_and_finds_the_same(monkeypatch):
    sizes = []
    call = descend._call
    monkeypatch.setattr(descend, "_call", lambda *given: (sizes.append(given[-5].numel()), call(*given)))
    given, fixed = problem(40, 6, 5, 4)
    with torch.no_grad():
        without = Compiled.apply(*given, *fixed, True, False)
    kept = both_ways(Compiled, given, fixed, True, False)
    assert all(map(torch.equal, without, kept))
    assert sizes[1] == sizes[0] * 10 * 4, "ten groups of four episodes, four steps"


def test_it_is_built_once_and_loaded_without_a_compiler(anew, monkeypatch):
    library = descend.compiled("float")
    (path,) = anew.iterdir()
    before = path.stat().st_ino
    monkeypatch.setenv("CC", "no-such-compiler")
    descend.compiled.cache_clear()
    again = descend.compiled("float")
    assert library and again and path.stat().st_ino == before and descend.compiled("double") is None
    monkeypatch.delenv("CC")
    monkeypatch.setattr(descend, "FLAGS", ("-DOTHER", *descend.FLAGS))
    descend.compiled.cache_clear()
    assert descend.compiled("float") and len(list(anew.iterdir())) == 2


@pytest.mark.parametrize("way", ["none", "one that fails"])
def test_without_a_compiler_the_loop_is_torchs(way, anew, monkeypatch, tmp_path, caplog):
    false = tmp_path / "cc"
    false.write_text("#!/bin/sh\necho no such flag >&2\nexit 1\n")
    false.chmod(0o755)
    monkeypatch.setenv("CC", str(false) if way == "one that fails" else "no-such-compiler")
    given, fixed = problem(3, 4, 5, 2)
    assert descend.way(given[0]) == "torch" and not any(anew.iterdir())
    found = descend.descend(*given, *fixed, True)
    assert all(map(torch.equal, found, ByTorch.apply(*given, *fixed, True, False)))
    assert ("no such flag" in caplog.text) == (way == "one that fails")


@pytest.mark.parametrize("spoilt", ["a file", "a library that is none"])
def test_a_cache_of_no_use_is_no_reason_to_be_slow(spoilt, anew):
    descend.compiled("float")
    (library,) = anew.iterdir()
    library.unlink()  # this process has it loaded: what it loaded from must not be written to
    if spoilt == "a file":
        anew.rmdir()
        anew.write_bytes(b"")
    else:
        library.write_bytes(b"no library")
    descend.compiled.cache_clear()
    assert descend.way(torch.zeros(1)) == "C"


def test_two_processes_that_build_it_at_once_both_have_it(anew):
    script = "from perser.descend import way; import torch; print(way(torch.zeros(1)))"
    running = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [each.communicate()[0].strip() for each in running] == ["C", "C"] and len(list(anew.iterdir())) == 1


def test_the_c_is_part_of_the_code_that_records_name(monkeypatch):
    before, read = provenance.code(), type(descend.SOURCE).read_bytes
    monkeypatch.setattr(type(descend.SOURCE), "read_bytes",
                        lambda path: read(path) + (b"/* other */" if path == descend.SOURCE else b""))
    assert provenance.code() != before
