"""Mutation tests: small wrong changes to the library, each of which a test of direction must notice.

`python tests/mutants.py` applies one mutant at a time to a temporary copy of the checkout and runs the test that should
fail. It prints the test that killed each mutant and exits with 1 if any survives. Arguments: names of mutants to run.
"""

import multiprocessing
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
TESTS = "tests/test_direction.py"


class Mutant(NamedTuple):
    """A text that occurs exactly once in a file of `perser`, its replacement, and the test that should fail."""

    name: str
    file: str
    old: str
    new: str
    test: str


FIRST_ORDER = "test_in_first_order_inner_gradients_are_constants"
CROSSFIT = "test_crossfit_is_the_share_of_steps_on_a_session_new_to_the_head"
MUTANTS = [
    Mutant("SSL-E keeps the last epoch", "methods/ssl_e.py",
           "if loss < lowest:", "if True:", "test_ssl_e_keeps_the_epoch_of_lowest_dev_loss"),
    Mutant("cosine schedule ends after `epochs` steps", "methods/maml.py",
           "max(1, method.epochs * method.outer_steps_per_epoch)", "max(1, method.epochs)",
           "test_the_cosine_falls_to_zero_over_all_outer_steps_of_all_epochs"),
    Mutant("listener embedding keeps the last epoch", "methods/listener_embedding.py",
           "if not kept or loss < lowest:", "if True:",
           "test_the_listener_embedding_keeps_the_epoch_of_lowest_dev_loss"),
    Mutant("decay of the running mean reversed", "methods/maml.py",
           "1 - method.ema_decay)", "method.ema_decay)", "test_the_running_mean_keeps_its_decay_of_the_past"),
    Mutant("dropout without rescaling", "methods/maml.py",
           "torch.from_numpy(kept).float() / (1 - method.dropout) if", "torch.from_numpy(kept).float() if",
           "test_dropout_scales_the_dimensions_that_stay"),
    Mutant("crossfit always", "methods/maml.py",
           "crossed = draw.random() < method.crossfit", "crossed = draw.random() < (method.crossfit > 0)", CROSSFIT),
    Mutant("crossfit never", "methods/maml.py",
           "crossed = draw.random() < method.crossfit", "crossed = draw.random() < 0", CROSSFIT),
    Mutant("learning rates by shots around the arithmetic mean", "methods/maml.py",
           "math.exp(sum(map(math.log, shots)) / len(shots))", "sum(shots) / len(shots)",
           "test_learning_rates_by_shots_are_centred_on_the_geometric_mean"),
    Mutant("multi-step loss without its floor", "methods/maml.py",
           "max((1 - epoch / last) / steps, 0.03 / steps)", "(1 - epoch / last) / steps",
           "test_no_weight_of_the_multi_step_loss_falls_below_its_floor"),
    Mutant("listeners with half the ratings that split pools need", "episodes.py",
           "2 * max(shots, query) if", "max(shots, query) if",
           "test_training_listeners_have_enough_ratings_for_an_episode"),
    Mutant("settings of the furthest number of shots", "methods/base.py",
           "model.settings[min(model.settings, key=lambda k: (abs(k - shots), k))]",
           "model.settings[max(model.settings, key=lambda k: (abs(k - shots), k))]",
           "test_adapt_takes_the_settings_of_the_nearest_number_of_shots"),
    Mutant("first order: gradient by the logits not detached", "adapt.py",
           "error, A_now, h_now = error.detach(), A.detach(), h.detach()",
           "error, A_now, h_now = error, A.detach(), h.detach()", FIRST_ORDER),
    Mutant("first order: A in the gradient of h not detached", "adapt.py",
           "error, A_now, h_now = error.detach(), A.detach(), h.detach()",
           "error, A_now, h_now = error.detach(), A, h.detach()", FIRST_ORDER),
    Mutant("first order: h in the gradient of A not detached", "adapt.py",
           "error, A_now, h_now = error.detach(), A.detach(), h.detach()",
           "error, A_now, h_now = error.detach(), A.detach(), h", FIRST_ORDER),
    Mutant("first order: inner products of the basis not detached", "adapt.py",
           "inner if second_order else inner.detach()", "inner", FIRST_ORDER),
    Mutant("first order: A of the basis not detached", "adapt.py",
           "head.A if second_order else head.A.detach()", "head.A", FIRST_ORDER),
    Mutant("first order: gradients by weights not detached", "adapt.py",
           "slopes if second_order else Head(*(tensor.detach() for tensor in slopes))", "slopes", FIRST_ORDER),
    Mutant("first order: products with the support not detached", "kernels.py",
           "if second_order:  # the gradient of a pair", "if True:  # the gradient of a pair", FIRST_ORDER),
    Mutant("first order: logits of the support not detached", "kernels.py",
           "to_z if second_order else _put(classes[:, shots:], rows[:, shots:], len(x))", "to_z", FIRST_ORDER),
    Mutant("first order: support not detached where the query dominates", "kernels.py",
           "if second_order:\n            to_h = torch.addmm", "if True:\n            to_h = torch.addmm", FIRST_ORDER),
    Mutant("best rival by median", "analysis/experiments/methods.py",
           "np.nanmean(values)", "np.nanmedian(values)", "test_the_best_rival_has_the_highest_mean"),
    Mutant("class weights: a share of 1/C is positive", "model.py",
           "(targets > 1 / classes)", "(targets >= 1 / classes)", "test_a_share_of_exactly_one_in_c_is_no_positive"),
    Mutant("prediction: a probability of 1/C is enough", "model.py",
           "logits.softmax(-1) > 1 / logits.shape[-1]", "logits.softmax(-1) >= 1 / logits.shape[-1]",
           "test_a_probability_of_exactly_one_in_c_is_not_predicted"),
]


def occurrences(mutant: Mutant, root: Path) -> int:
    """How often the text to replace occurs in its file."""
    return (root / "perser" / mutant.file).read_text().count(mutant.old)


def run_tests(root: Path, tests: list[str]) -> list[str]:
    """Run tests in a copy of the checkout up to the first failure. Returns its id in a list, or an empty list.

    Raises SystemExit when pytest ends in any other state, for example because the mutant cannot be imported.
    """
    process = multiprocessing.get_context("forkserver").Process(target=_pytest, args=(root, tests))
    process.start()
    process.join()
    output = (root / "output").read_text()
    failed = re.findall(r"^FAILED (\S+)", output, re.MULTILINE)
    if process.exitcode != (1 if failed else 0):
        raise SystemExit(f"{', '.join(tests)}: pytest exited with {process.exitcode}\n{output}")
    return failed


def _pytest(root: Path, tests: list[str]) -> None:
    """Run pytest on the copy and exit, in a child process. A mutant's bytecode is never written."""
    sys.path.insert(0, str(root))
    sys.dont_write_bytecode = True
    os.chdir(root)
    with Path("output").open("w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    import pytest

    sys.exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *(f"{TESTS}::{test}" for test in tests)]))


def survivors(chosen: list[Mutant], copy: Path) -> int:
    """Print a line per mutant; return how many survive."""
    width, count = max(len(mutant.name) for mutant in chosen), 0
    for mutant in chosen:
        if occurrences(mutant, copy) != 1:
            raise SystemExit(f"{mutant.name}: {mutant.old!r} must occur once in perser/{mutant.file}")
        path = copy / "perser" / mutant.file
        source = path.read_text()
        path.write_text(source.replace(mutant.old, mutant.new))
        failed = run_tests(copy, [mutant.test])
        path.write_text(source)
        print(f"{mutant.name:{width}}  {failed[0].removeprefix(f'{TESTS}::') if failed else 'SURVIVED'}", flush=True)
        count += not failed
    return count


def main(names: list[str]) -> int:
    """Print a table of the mutants and what killed them; 1 if any survives."""
    chosen = [mutant for mutant in MUTANTS if not names or mutant.name in names]
    # Libraries are imported once, before the processes fork; perser is not among them.
    multiprocessing.get_context("forkserver").set_forkserver_preload(
        ["pytest", "torch", "torch._dynamo", "pandas", "pyarrow", "pydantic", "scipy.stats", "matplotlib.pyplot"])
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "checkout"
        for part in ("perser", "tests"):
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        for part in ("conftest.py", "pyproject.toml"):
            shutil.copy(ROOT / part, copy)
        if failed := run_tests(copy, list(dict.fromkeys(mutant.test for mutant in chosen))):
            raise SystemExit(f"{failed[0]} fails without a mutant, so it can kill none")
        count = survivors(chosen, copy)
    print(f"{len(chosen) - count} of {len(chosen)} mutants killed")
    return int(count > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
