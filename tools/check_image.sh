#!/usr/bin/env bash
# Build the Dockerfile without a Docker engine, on a base made by debootstrap, and run reproduce.sh inside the image.
#
#   sudo tools/check_image.sh [COMMAND ...]    commands of reproduce.sh; by default check, test and the default job
#   sudo tools/check_image.sh build            only build
#
# Needs root, buildah, debootstrap, 30 GB (in IMAGE_DIR, default /var/tmp/perser-image, removed at the end) and a
# network. The base uses the Debian mirror, the package index and the certificates of this machine.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

folder=${IMAGE_DIR:-/var/tmp/perser-image}
base=localhost/perser-base image=localhost/perser
export BUILDAH_ISOLATION=chroot STORAGE_DRIVER=vfs TMPDIR=$folder/tmp

need() {
    command -v "$1" >/dev/null || { printf 'no %s: apt install buildah debootstrap\n' "$1" >&2; exit 1; }
}

builder() {
    buildah --root "$folder/storage" --runroot "$folder/run" "$@"
}

clean() {
    builder rm --all >/dev/null 2>&1 || true
    builder rmi --all --force >/dev/null 2>&1 || true
    rm -rf "$folder"
}

timed() {
    local name=$1 start=$SECONDS
    shift
    "$@"
    printf 'image: %-12s %d s\n' "$name" $((SECONDS - start))
}

size() {
    du --summarize --block-size=1M "$1" | awk '{printf "%.1f GB\n", $1 / 1024}'
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
    printf 'image: base         %s, %s\n' "$suite" "$(size "$folder/base")"
    local container
    container=$(builder from scratch)
    builder copy --quiet "$container" "$folder/base" / >/dev/null
    builder commit --quiet --rm "$container" "$base" >/dev/null
    rm -rf "$folder/base"
}

build() {
    builder build --build-arg BASE="$base" --pull-never --tag "$image" . >"$folder/build.log" 2>&1 \
        || { tail -n 30 "$folder/build.log" >&2; exit 1; }
    builder rmi --force "$base" >/dev/null
}

run_inside() {
    local arguments=("$1")
    [[ $1 == default ]] && arguments=()
    builder run "$container" -- ./reproduce.sh "${arguments[@]}"
}

((EUID == 0)) || { printf 'debootstrap and the chroot need root: sudo %s\n' "$0" >&2; exit 1; }
need buildah
need debootstrap
trap clean EXIT
clean
mkdir -p "$TMPDIR"
failed=0
(($#)) || set -- check test default
timed base make_base
timed build build
container=$(builder from --pull-never "$image")
mounted=$(builder mount "$container")
printf 'image: size         %s, of it packages %s\n' "$(size "$mounted")" "$(size "$mounted/home/perser/artifact/.venv")"
[[ $1 == build ]] && exit
for command in "$@"; do
    start=$SECONDS verdict=passed
    run_inside "$command" || { verdict=FAILED failed=1; }
    printf 'image: %-12s %s in %d s\n' "$command" "$verdict" $((SECONDS - start))
done
((!failed))
