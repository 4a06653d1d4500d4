#!/usr/bin/env bash
# Build the Dockerfile without a Docker engine, on a base made by debootstrap, and run reproduce.sh inside the image,
# without a network.
#
#   sudo tools/check_image.sh [COMMAND ...]    commands of reproduce.sh; by default check, default (the default job)
#                                              and test
#   sudo tools/check_image.sh build            only build
#
# Needs root, buildah, debootstrap, ip, 35 GB (in IMAGE_DIR, default /var/tmp/perser-image) and a network to build. The
# folder is removed at the end; with IMAGE_KEEP=yes it stays, 15 GB, and the next such call does not build. The base uses the Debian mirror, the package index and the certificates of this machine. Lints the
# Dockerfile where hadolint is installed. What the commands print is kept in out/log/image-COMMAND.log, sizes and minutes
# in out/log/image.csv, of which results/image.csv is the committed copy.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

folder=${IMAGE_DIR:-/var/tmp/perser-image}
base=localhost/perser-base image=localhost/perser
# vfs works on every file system, but copies all layers.
export BUILDAH_ISOLATION=chroot STORAGE_DRIVER=${STORAGE_DRIVER:-overlay} TMPDIR=$folder/tmp

need() {
    command -v "$1" >/dev/null || { printf 'no %s: apt install buildah debootstrap iproute2\n' "$1" >&2; exit 1; }
}

builder() {
    buildah --root "$folder/storage" --runroot "$folder/run" "$@"
}

clean() {
    builder rm --all >/dev/null 2>&1 || true
    builder rmi --all --force >/dev/null 2>&1 || true
    rm -rf "$folder"
}

# note WHAT MEASURED RESULT: print a row and keep it.
note() {
    printf 'image: %-10s %-12s %s\n' "$@"
    printf '%s,%s,"%s"\n' "$@" >>out/log/image.csv
}

# since START: the time since then.
since() {
    awk "BEGIN {s = $SECONDS - $1; if (s < 100) print s \" seconds\"; else printf \"%.0f minutes\", s / 60}"
}

size() {
    du --summarize --block-size=1M "$1" | awk '{printf "%.1f GB", $1 * 1.048576 / 1000}'
}

# The number of processes that wanted a core, over the last minute: above the cores, other work slows this down.
load() {
    printf 'load %s before' "$(cut -d ' ' -f 1 /proc/loadavg)"
}

machine() {
    printf '%s, %d cores, %s GB of memory; commit %s' \
        "$(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1)" "$(nproc)" \
        "$(awk '/MemTotal/ {printf "%.0f", $2 * 1.024 / 1e6}' /proc/meminfo)" \
        "$(git rev-parse --short=10 HEAD)"
}

# The value that pip uses here for a setting, if it is valid inside the image too.
pip_setting() {
    local variable=PIP_${1^^} value
    variable=${variable//-/_}
    value=${!variable:-$(python3 -m pip config get "global.$1" 2>/dev/null || true)}
    [[ -z $value || $value == *file://* ]] || printf '%s = %s\n' "$1" "$value"
}

make_base() {
    local suite mirror setting
    # shellcheck source=/dev/null
    suite=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-bookworm}")
    # shellcheck disable=SC2016
    mirror=$(apt-get indextargets --format '$(REPO_URI)' "Codename: $suite" | head -n 1)
    debootstrap --variant=minbase "$suite" "$folder/base" "$mirror" >"$folder/debootstrap.log"
    install -D "${PIP_CERT:-/etc/ssl/certs/ca-certificates.crt}" "$folder/base/etc/pip-ca.crt"
    {
        printf '[global]\ncert = /etc/pip-ca.crt\n'
        for setting in index-url extra-index-url proxy trusted-host timeout; do pip_setting "$setting"; done
    } >"$folder/base/etc/pip.conf"
    note base "$(size "$folder/base")" "Debian $suite by debootstrap in place of the CUDA base"
    local container
    container=$(builder from scratch)
    builder copy --quiet "$container" "$folder/base" / >/dev/null
    builder commit --quiet --rm "$container" "$base" >/dev/null
    rm -rf "$folder/base"
}

build() {
    local start=$SECONDS load
    load=$(load)
    builder build --build-arg BASE="$base" --pull-never --tag "$image" . >"$folder/build.log" 2>&1 \
        || { tail -n 30 "$folder/build.log" >&2; exit 1; }
    builder rmi --force "$base" >/dev/null
    note build "$(since "$start")" "with the download of packages and speech model; $load"
}

# inside COMMAND...: run it in the image as its user, with no network but the loopback.
inside() {
    # shellcheck disable=SC2016
    unshare --net sh -c 'ip link set lo up && exec "$@"' sh \
        buildah --root "$folder/storage" --runroot "$folder/run" run "$container" -- "$@"
}

# ending LOG: what a command of reproduce.sh ended with: the verdict on the tables, if any, and the last line.
ending() {
    grep -E 'cells equal|^can run|^[0-9]+ passed' "$1" | tr '"' "'" | paste --serial --delimiters=';' \
        | sed 's/;/; /g'
}

run_inside() {
    local start=$SECONDS arguments=("$1") log=out/log/image-$1.log verdict=FAILED load
    load=$(load)
    [[ $1 == default ]] && arguments=()
    if inside ./reproduce.sh "${arguments[@]}" 2>&1 | tee "$log"; then verdict=passed; else failed=1; fi
    note "$1" "$(since "$start")" "$verdict: $(ending "$log"); $load"
}

# Set `container`, and start the rows with what was built.
make_image() {
    local mounted
    clean
    mkdir -p "$TMPDIR" out/log
    printf 'what,measured,result\n' >out/log/image.csv
    note machine "" "$(machine)"
    make_base
    build
    container=$(builder from --pull-never "$image")
    mounted=$(builder mount "$container")
    note image "$(size "$mounted")" "as stored, not compressed"
    note packages "$(size "$mounted/home/perser/artifact/.venv")" "of it"
    note user "" "$(inside id --user --name), interfaces: $(inside sed -n 's/ *\(.*\):.*/\1/p' /proc/net/dev | xargs)"
}

((EUID == 0)) || { printf 'debootstrap and the chroot need root: sudo %s\n' "$0" >&2; exit 1; }
for program in buildah debootstrap ip; do need "$program"; done
if command -v hadolint >/dev/null; then hadolint Dockerfile; else printf 'no hadolint: the Dockerfile is not linted\n'; fi
[[ ${IMAGE_KEEP:-} ]] || trap clean EXIT
failed=0
(($#)) || set -- check default test
if [[ ${IMAGE_KEEP:-} ]] && builder inspect --type image "$image" >/dev/null 2>&1; then
    container=$(builder from --pull-never "$image")
else
    make_image
fi
[[ $1 == build ]] && exit
for command in "$@"; do run_inside "$command"; done
((!failed))
