"""Mutants: wrong versions of the library, which the tests of direction must tell from the right one.

`python tests/mutants.py` changes a temporary copy of the checkout, one mutant at a time, and runs the test that should
fail. It prints which test killed which mutant and exits with 1 if any survives. Names as arguments choose mutants.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
TESTS = "tests/test_direction.py"


class Mutant(NamedTuple):
    """A text that occurs once in a file of the library, what replaces it, and the test that notices."""

    name: str
    file: str
    old: str
    new: str
    test: str


FIRST_ORDER = "test_in_first_order_inner_gradients_are_constants"
CROSSFIT = "test_the_share_of_crossfit_is_that_of_steps_from_a_head_that_has_not_seen_the_session"
MUTANTS = [
    Mutant("SSL-E keeps the last epoch", "methods/ssl_e.py",
           "if loss < lowest:", "if True:", "test_ssl_e_keeps_the_epoch_of_lowest_dev_loss"),
    Mutant("cosine ends after as many steps as epochs", "methods/maml.py",
           "max(1, method.epochs * method.outer_steps_per_epoch)", "max(1, method.epochs)",
           "test_the_cosine_falls_to_zero_over_all_outer_steps_of_all_epochs"),
    Mutant("listener embedding keeps the last epoch", "methods/listener_embedding.py",
           "if kept is None or loss < lowest:", "if True:",
           "test_the_listener_embedding_keeps_the_epoch_of_lowest_dev_loss"),
    Mutant("decay of the running mean reversed", "methods/maml.py",
           "1 - method.ema_decay)", "method.ema_decay)", "test_the_running_mean_keeps_its_decay_of_the_past"),
    Mutant("dropout without rescaling", "methods/maml.py",
           "torch.from_numpy(kept).float() / (1 - method.dropout) if", "torch.from_numpy(kept).float() if",
           "test_dropout_scales_the_dimensions_that_stay"),
    Mutant("crossfit always", "methods/maml.py",
           "if draw.random() < method.crossfit", "if draw.random() < (method.crossfit > 0)", CROSSFIT),
    Mutant("crossfit never", "methods/maml.py",
           "if draw.random() < method.crossfit", "if draw.random() < 0", CROSSFIT),
    Mutant("learning rates by shots around the arithmetic mean", "methods/maml.py",
           "math.exp(sum(map(math.log, shots)) / len(shots))", "sum(shots) / len(shots)",
           "test_learning_rates_by_shots_cross_at_the_geometric_mean"),
    Mutant("multi-step loss without its floor", "methods/maml.py",
           "max((1 - epoch / last) / steps, 0.03 / steps)", "(1 - epoch / last) / steps",
           "test_no_weight_of_the_multi_step_loss_falls_below_its_floor"),
    Mutant("split pools of half the size", "episodes.py",
           "2 * max(shots, query) if", "max(shots, query) if",
           "test_a_listener_who_trains_has_enough_ratings_for_an_episode"),
    Mutant("settings of the furthest number of shots", "methods/base.py",
           "model.settings[min(model.settings, key=lambda k: (abs(k - shots), k))]",
           "model.settings[max(model.settings, key=lambda k: (abs(k - shots), k))]",
           "test_adapt_takes_the_settings_of_the_nearest_number_of_shots"),
    Mutant("first order: inner gradients not detached", "adapt.py",
           "(slope.detach() for slope in (delta, slope_A, slope_b, slope_a))", "(delta, slope_A, slope_b, slope_a)",
           FIRST_ORDER),
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
           "        if second_order:\n            to_h = torch.addmm", "        if True:\n            to_h = torch.addmm",
           FIRST_ORDER),
    Mutant("best rival by median", "analysis/experiments/methods.py",
           "np.nanmean(values)", "np.nanmedian(values)", "test_the_best_rival_has_the_highest_mean"),
    Mutant("positive from 1/C on", "model.py",
           "(targets > 1 / classes)", "(targets >= 1 / classes)", "test_a_share_of_exactly_one_in_c_is_no_positive"),
    Mutant("predicted from 1/C on", "model.py",
           "logits.softmax(-1) > 1 / logits.shape[-1]", "logits.softmax(-1) >= 1 / logits.shape[-1]",
           "test_a_probability_of_exactly_one_in_c_is_not_predicted"),
]


def occurrences(mutant: Mutant, root: Path) -> int:
    """How often the text to replace is in its file."""
    return (root / "perser" / mutant.file).read_text().count(mutant.old)


def run_test(root: Path, test: str) -> tuple[bool, str | None]:
    """Run one test in a copy of the checkout: whether it passed, and the id of the first failure.

    Raises SystemExit where it neither passes nor fails, such as when the mutant cannot be imported.
    """
    environment = os.environ | {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", f"{TESTS}::{test}"],
                            cwd=root, env=environment, capture_output=True, text=True, check=False)
    failed = re.search(r"^FAILED (\S+)", result.stdout, re.MULTILINE)
    if result.returncode != (1 if failed else 0):
        raise SystemExit(f"{test}: pytest exited with {result.returncode}\n{result.stdout}{result.stderr}")
    return not failed, failed and failed[1]


def main(names: list[str]) -> int:
    """Print a table of the mutants and what killed them; 1 if any survives."""
    chosen = [mutant for mutant in MUTANTS if not names or mutant.name in names]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "checkout"
        for part in ("perser", "tests"):
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        for part in ("conftest.py", "pyproject.toml"):
            shutil.copy(ROOT / part, copy)
        for test in dict.fromkeys(mutant.test for mutant in chosen):
            passed, failure = run_test(copy, test)
            if not passed:
                raise SystemExit(f"{failure} fails without a mutant, so it can kill none")
        width, survivors = max(len(mutant.name) for mutant in chosen), 0
        for mutant in chosen:
            if occurrences(mutant, copy) != 1:
                raise SystemExit(f"{mutant.name}: {mutant.old!r} must occur once in perser/{mutant.file}")
            path = copy / "perser" / mutant.file
            source = path.read_text()
            path.write_text(source.replace(mutant.old, mutant.new))
            passed, failure = run_test(copy, mutant.test)
            path.write_text(source)
            print(f"{mutant.name:{width}}  {'SURVIVED' if passed else failure.removeprefix(f'{TESTS}::')}", flush=True)
            survivors += passed
    print(f"{len(chosen) - survivors} of {len(chosen)} mutants killed")
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
