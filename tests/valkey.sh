#!/bin/sh
# Makes Valkey available to tests. `valkey.sh DIR` puts a valkey-server at DIR/bin/redis-server: with DIR/bin first in
# PATH, everything that starts a redis-server starts Valkey.
#
# Uses an installed valkey-server. Without one, on Debian, downloads the packages from the system's mirror, or from the
# backports of the release, and unpacks them in DIR. Nothing is installed.
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
# Ask the server itself: this fails if a library is missing, and shows a Redis in place of a Valkey.
version=$(bin/redis-server --version)
echo "$version"
case $version in Valkey*) ;; *) echo "this is not a Valkey" >&2; exit 1 ;; esac
