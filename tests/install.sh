#!/bin/sh
# Installs programs that are missing. `install.sh PROGRAM…` uses brew, apt-get, dnf or apk, the first one that is there,
# and needs root for all but brew. It does nothing if every program is on PATH. PostgreSQL's need not be: Debian keeps them
# in a directory for each version.
set -eu
for bin in /usr/lib/postgresql/*/bin; do PATH="$PATH:$bin"; done

missing=
for program in "$@"; do
    command -v "$program" >/dev/null || missing="$missing $program"
done
[ -n "$missing" ] || exit 0

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else echo "missing:$missing; installing needs root, so run as root: $*" >&2; exit 1; fi
}

# The packages that have the missing programs, if they have other names. `packages FROM=TO…`.
packages() {
    for program in $missing; do
        name=$program
        for other in "$@"; do
            [ "${other%%=*}" != "$program" ] || name=${other#*=}
        done
        echo "$name"
    done
}

if command -v brew >/dev/null; then
    echo "installing by brew:$missing"
    brew install $(packages postgres=postgresql npm=node pip3=python python3=python redis-server=redis redis-cli=redis)
elif command -v apt-get >/dev/null; then
    echo "installing by apt-get:$missing"
    as_root apt-get update -q
    # Otherwise the package creates a cluster and starts it. Tests have servers of their own.
    case "$missing" in *postgres*)
        as_root sh -c 'mkdir -p /etc/postgresql-common && cd /etc/postgresql-common &&
            { [ -e createcluster.conf ] || echo "create_main_cluster = false" >createcluster.conf; }' ;;
    esac
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends \
        $(packages postgres=postgresql node=nodejs pip3=python3-pip redis-cli=redis-tools)
elif command -v dnf >/dev/null; then
    echo "installing by dnf:$missing"
    as_root dnf install -y $(packages postgres=postgresql-server node=nodejs pip3=python3-pip redis-server=redis redis-cli=redis)
elif command -v apk >/dev/null; then
    echo "installing by apk:$missing"
    as_root apk add $(packages postgres=postgresql node=nodejs pip3=py3-pip redis-server=redis redis-cli=redis)
else
    echo "missing:$missing, and there is no brew, apt-get, dnf or apk: install them yourself" >&2
    exit 1
fi
