#!/bin/bash
#
# Debian packages: deb.sh build|test [SUITE]
#
# "build" builds them in a clean root and puts them into dist.  "test" installs
# one in another clean root: over an older version, with a job before and after,
# and purges it.  The last line of a test is "N passed, N failed".

. "$(dirname "$0")/root.sh"

action=${1:-build}
suite=${2:-trixie}
version=$(sed -n 's/^dess-batch (\([^-]*\)-.*/\1/p;q' "$top/debian/changelog")
exchange=$top/dist
export exchange

install_tools || exit
mkdir -p "$exchange"

case $action in
	build)
		# shellcheck disable=SC2046
		make_root "$suite" $("$top/test/bootstrap.sh" packages) make ccache \
			dpkg-dev debhelper postgresql-server-dev-all || exit
		# shellcheck disable=SC2016
		in_copy "$suite" bash -euc '
			mkdir /tmp/build && cp -r /tree "/tmp/build/dess-batch-$1" && cd "/tmp/build/dess-batch-$1"
			pg_buildext updatecontrol
			dpkg-buildpackage --build=binary --no-sign --no-check-builddeps 2>&1
			cp ../*.deb /exchange' build "$version" >"$roots/$suite.deb.log" ||
			{ tail -n 30 "$roots/$suite.deb.log" >&2; no_root "the packages could not be built"; exit; }
		ls "$exchange"/*.deb
		;;
	test)
		# shellcheck disable=SC2046
		make_root "$suite" $("$top/test/bootstrap.sh" packages) make ccache dpkg-dev debhelper \
			postgresql-server-dev-all || exit
		in_copy "$suite" bash /tree/test/roots/deb_test.sh
		;;
	*)
		echo "deb.sh: neither build nor test: $action" >&2
		exit 2
		;;
esac
