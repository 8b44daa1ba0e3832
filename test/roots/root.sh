#!/bin/bash
#
# Sourced by the other scripts of this folder: roots of other releases of
# Debian, made by debootstrap from the mirror that apt uses here.  Needs root.
#
# A root is made once and kept in $roots.  Programs run in it as process 1 of a
# process namespace, with mounts of their own: when it ends, however it ends,
# neither a process nor a mount is left.  Tests run in a copy of the root, which
# is an overlay that is thrown away, and see no network but 127.0.0.1.

set -uo pipefail

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
roots=${ROOTS:-${XDG_CACHE_HOME:-/var/cache}/dess_batch-roots}

no_root()
{
	echo "roots: $*" >&2
	return 1
}

# What this machine needs to make a root.
install_tools()
{
	local program package missing=()

	[ "$(id -u)" -eq 0 ] || { no_root "only root can make a root"; return; }
	remove_old_copies
	for program in debootstrap:debootstrap ip:iproute2 git:git
	do
		package=${program#*:}
		command -v "${program%:*}" >/dev/null || missing+=("$package")
	done
	[ ${#missing[@]} -eq 0 ] && return
	apt-get -qq update
	DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 \
		install --yes --no-install-recommends "${missing[@]}" >/dev/null ||
		no_root "could not install ${missing[*]}"
}

# inside SETUP ROOT COMMAND...: SETUP is shell code that runs before the change of
# root, in the new namespaces, with $root.  A shell stays process 1, since that
# one must reap what servers leave behind.
inside()
{
	local setup=$1 root=$2
	shift 2

	# shellcheck disable=SC2016
	unshare --mount --pid --fork --kill-child ${unshared:-} -- bash -euc '
		root=$1; shift
		'"$setup"'
		mount -t proc proc "$root/proc"
		mount -t tmpfs -o mode=1777 shm "$root/dev/shm"
		exec chroot "$root" env -i HOME=/root TERM=dumb LC_ALL=C.UTF-8 \
			PATH=/usr/lib/ccache:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
			CCACHE_DIR=/ccache CCACHE_NOHASHDIR=1 DEBIAN_FRONTEND=noninteractive \
			bash -c "\"\$@\"; exit" inside "$@"' inside "$root" "$@"
}

# How apt reaches its mirror from here is how it does so in the root.
configure_root()
{
	local root=$1

	cp -L /etc/resolv.conf "$root/etc/resolv.conf" &&
		apt-config dump | grep -E '^Acquire::(https?::|Check-|Retries)' >"$root/etc/apt/apt.conf.d/00host"
	cat >"$root/etc/apt/apt.conf.d/50root" <<-'END'
		Acquire::Languages "none";
		APT::Install-Recommends "false";
		Dpkg::Use-Pty "0";
	END
	mkdir -p "$root/etc/postgresql-common/createcluster.d" &&
		echo 'create_main_cluster = false' >"$root/etc/postgresql-common/createcluster.d/root.conf" &&
		printf '#!/bin/sh\n# nothing is started in this root\nexit 101\n' >"$root/usr/sbin/policy-rc.d" &&
		chmod 755 "$root/usr/sbin/policy-rc.d"
}

bootstrap_root()
{
	local suite=$1 root=$roots/$1 mirror proxy

	mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Label: Debian' | head -n 1)
	[ -n "$mirror" ] || { no_root "apt knows no mirror of Debian"; return; }
	proxy=$(apt-config dump --format '%v' Acquire::http::Proxy)

	echo "roots: making a root of Debian $suite in $root"
	rm -rf --one-file-system "$root.partial"
	unshare --mount --pid --fork --kill-child --mount-proc \
		env ${proxy:+http_proxy="$proxy"} \
		debootstrap --variant=minbase --include=ca-certificates "$suite" "$root.partial" "$mirror" \
		>"$root.log" 2>&1 || { tail -n 20 "$root.log" >&2; no_root "debootstrap of $suite failed"; return; }
	configure_root "$root.partial" && mv "$root.partial" "$root"
}

# make_root SUITE PACKAGE...: the root is there and has these packages
make_root()
{
	local suite=$1 root=$roots/$1 missing
	shift

	mkdir -p "$roots" || return
	(
		flock 9 || exit
		[ -d "$root" ] || bootstrap_root "$suite" || exit
		missing=$(chroot "$root" dpkg-query -W -f '${db:Status-Status}\n' "$@" 2>&1 | grep -vx installed)
		[ -n "$missing" ] || exit 0
		echo "roots: installing into the root of Debian $suite: $*"
		configure_root "$root" || exit
		# shellcheck disable=SC2016
		inside "" "$root" bash -c 'dpkg --configure -a && apt-get -qq update && apt-get -qq --yes install "$@"' \
			install "$@" >"$root.log" 2>&1 ||
			{ tail -n 20 "$root.log" >&2; no_root "could not install into $suite: $*"; }
	) 9>"$roots/$suite.lock"
}

# in_copy SUITE COMMAND...: runs in a copy of the root, with a copy of the sources
# in /tree.  Only the compiler's cache and $exchange, which the root sees as
# /exchange, outlive it.
in_copy()
{
	local suite=$1 copy=$roots/$1.copy.$BASHPID status
	shift

	mkdir -p "$roots/ccache" "$copy/upper/tree" "$copy/upper/ccache" "$copy/upper/exchange" \
		"$copy/work" "$copy/merged" "$copy/exchange" &&
		git -C "$top" ls-files -z --cached --others --exclude-standard |
		tar -C "$top" -cf - --null --files-from=- |
		tar -C "$copy/upper/tree" --no-same-owner -xf - || return
	chmod 1777 "$copy/exchange"
	# shellcheck disable=SC2016
	copy=$copy cache=$roots/ccache exchange=${exchange:-$copy/exchange} unshared=--net inside '
		ip link set lo up
		mount -t overlay overlay -o "lowerdir=$root,upperdir=$copy/upper,workdir=$copy/work" "$copy/merged"
		mount --bind "$cache" "$copy/merged/ccache"
		mount --bind "$exchange" "$copy/merged/exchange"
		root=$copy/merged' "$roots/$suite" "$@"
	status=$?
	rm -rf --one-file-system "$copy"
	return "$status"
}

# What a run that was killed has left.
remove_old_copies()
{
	local copy

	for copy in "$roots"/*.copy.*
	do
		[ ! -d "$copy" ] || kill -0 "${copy##*.}" 2>/dev/null || rm -rf --one-file-system "$copy"
	done
}
