#!/bin/sh
# Builds what is released for this kind of machine, into target/packages: an archive, a Debian package, a bill of
# materials and checksums. Installs cargo-deb and cargo-cyclonedx if they are missing. PROFILE=dev tries it without
# optimisation.
set -eu
cd "$(dirname "$0")/.."

CARGO=${CARGO:-cargo}
PROFILE=${PROFILE:-dist}
BYTES_MAX=30000000 # of the program
out=target/packages
generated=target/generated

$CARGO deb --version >/dev/null 2>&1 || $CARGO install --locked --debug cargo-deb@3.8.0
$CARGO cyclonedx --version >/dev/null 2>&1 || $CARGO install --locked --debug cargo-cyclonedx@0.5.9

$CARGO build --profile "$PROFILE" --locked --bin pregon
case $PROFILE in
dev) program=target/debug/pregon ;;
*) program=target/$PROFILE/pregon ;;
esac
bytes=$(wc -c <"$program")
if [ "$PROFILE" = dist ] && [ "$bytes" -gt $BYTES_MAX ]; then
	echo "$program has $bytes bytes, more than $BYTES_MAX" >&2
	exit 1
fi

rm -rf $out $generated
mkdir -p $out $generated/completions
"$program" man $generated/man
for shell in bash zsh fish; do
	"$program" completions "$shell" >"$generated/completions/pregon.$shell"
done
# The Debian package has them compressed.
gzip --best --no-name --keep $generated/man/*.1

version=$("$program" --version | cut -d ' ' -f 2)
name=pregon-$version-$(uname -m)-linux
mkdir -p "$generated/$name/man"
cp "$program" LICENSE-APACHE LICENSE-MIT CHANGELOG.md config/pregon.toml packages/systemd/pregon.service "$generated/$name"
cp -r $generated/completions "$generated/$name"
cp $generated/man/*.1 "$generated/$name/man"
tar --create --gzip --owner 0 --group 0 --directory $generated --file "$out/$name.tar.gz" "$name"

$CARGO deb --no-build --no-strip --profile "$PROFILE" --output $out/
$CARGO cyclonedx --format json
mv pregon.cdx.json "$out/$name.cdx.json"
rm -f loadtest/pregon-load.cdx.json # of the load generator, which is not released

cd $out
sha256sum -- * >"SHA256SUMS-$(uname -m)"
cat "SHA256SUMS-$(uname -m)"
