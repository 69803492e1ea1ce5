#!/bin/sh
# Makes Valkey available to tests: `valkey.sh DIR` leaves DIR/bin/redis-server, which is a valkey-server. Whoever has
# DIR/bin first in PATH runs on Valkey, wherever a redis-server is started.
#
# One that is installed is taken. Otherwise, on Debian, its packages are fetched from the mirror that the system uses,
# from its backports where the release itself has none, and unpacked in DIR: nothing is installed.
set -eu
mkdir -p "$1/bin"
cd "$1"

fetch() {
    apt-get -qq "$@" download valkey-server valkey-tools
}

from_backports() {
    mkdir -p lists/partial
    apt-get indextargets --format 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(REPO_URI) $(CODENAME)-backports main' \
        'Created-By: Packages' 'Origin: Debian' 'Component: main' | grep -v -e '-[a-z]*-backports' | sort -u >backports.list
    set -- -o Dir::Etc::SourceList="$PWD/backports.list" -o Dir::Etc::SourceParts=/dev/null -o Dir::State::Lists="$PWD/lists"
    apt-get -qq "$@" update
    fetch "$@"
}

if [ ! -x bin/redis-server ]; then
    if program=$(command -v valkey-server); then
        ln -sf "$program" bin/redis-server
    elif command -v apt-get >/dev/null && command -v dpkg >/dev/null; then
        fetch 2>/dev/null || from_backports
        for package in valkey-*.deb; do dpkg -x "$package" .; done
        ln -sf ../usr/bin/valkey-server bin/redis-server
    else
        echo "valkey-server is missing: install Valkey 7.2 or newer (dnf, apk, brew)" >&2
        exit 1
    fi
fi
# Told by the server itself: a library that is missing shows here, and a Redis that stands in its place too.
version=$(bin/redis-server --version)
echo "$version"
case $version in Valkey*) ;; *) echo "that is no Valkey" >&2; exit 1 ;; esac
