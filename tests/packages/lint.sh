#!/usr/bin/env bash
# Holds what `make deb` and `make rpm` have built against what lintian, rpmlint and systemd-analyze know, and what is
# in the one package against what is in the other. A finding is an error unless a file here says why it is none.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$(dirname "$here")")
packages=$root/target/package
# systemd's own measure, in tenths; the shipped unit is at 1.5.
most_exposed=16

fail() {
    echo "package lint: $*" >&2
    exit 1
}

deb=$(ls "$packages"/*.deb) || fail "no .deb: \`make deb\` builds it"
rpm=$(ls "$packages"/*.rpm) || fail "no .rpm: \`make rpm\` builds it"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Reads the .rpm, without the database of what is installed: not everybody may open it.
query_rpm() {
    rpm --dbpath "$work/rpmdb" --query --package "$rpm" "$@"
}

echo "lintian"
as_root=()
((EUID != 0)) || as_root=(--allow-root)
lintian "${as_root[@]}" --fail-on error,warning "${deb%.deb}.changes"

echo "rpmlint"
rpmlint --strict --config "$here/rpmlint.toml" "$rpm" "$root/pynatconnd.spec" >"$work/rpmlint" || {
    cat "$work/rpmlint" >&2
    fail "rpmlint has found something"
}

echo "scripts of the packages"
dpkg-deb --control "$deb" "$work/control"
shellcheck "$work"/control/{preinst,postinst,prerm,postrm}
for script in "$work"/control/p*; do
    sh -n "$script"
done
for tag in PREIN POSTIN PREUN POSTUN POSTTRANS; do
    query_rpm --qf "%{$tag}" >"$work/$tag"
    sh -n "$work/$tag"
    ! grep '%' "$work/$tag" || fail "a macro of the .rpm's $tag was not replaced"
done

echo "systemd"
dpkg-deb --extract "$deb" "$work/deb"
mkdir "$work/rpm"
(cd "$work/rpm" && rpm2cpio "$rpm" | cpio --quiet --extract --make-directories)
mkdir "$work/units"
# Debian 12 has them in /lib, and /lib in /usr.
in_deb=$(find "$work/deb" -path '*lib/systemd/system')
for unit in service socket; do
    # The program is here and not in /usr.
    sed "s|=/usr/bin/|=$work/deb/usr/bin/|" "$in_deb/pynatconnd.$unit" >"$work/units/pynatconnd.$unit"
    cmp "$in_deb/pynatconnd.$unit" "$work/rpm/usr/lib/systemd/system/pynatconnd.$unit"
done
systemd-analyze verify --man=no "$work"/units/pynatconnd.{service,socket} 2>&1 | tee "$work/verify"
! grep -q 'pynatconnd\.' "$work/verify" || fail "systemd-analyze verify has found something"
systemd-analyze security --no-pager --offline=yes --threshold=$most_exposed "$work/units/pynatconnd.service" |
    tail -n 1
systemd-sysusers --dry-run "$work/deb/usr/lib/sysusers.d/pynatconnd.conf" >/dev/null 2>&1 ||
    fail "systemd-sysusers refuses the user"

echo "what is in them"
list() {
    (cd "$1" && find . ! -type d ! -path './usr/share/doc/*' ! -path './usr/share/licenses/*' \
        ! -path './usr/lib/.build-id/*' | sed -e 's|^\./lib/|./usr/lib/|' \
        -e 's|/vendor-completions/|/site-functions/|' -e '/nagios/d' | sort)
}
diff <(list "$work/deb") <(list "$work/rpm") || fail "the packages differ"
cmp "$root/pynatconnd.conf" "$work/deb/etc/pynatconnd.conf"
grep -qx /etc/pynatconnd.conf "$work/control/conffiles" || fail "the .deb has no conffile"
[[ $(query_rpm --qf '[%{FILENAMES} %{FILEFLAGS:fflags}\n]' | grep /etc/) == "/etc/pynatconnd.conf cn" ]] ||
    fail "in the .rpm, /etc/pynatconnd.conf is not %config(noreplace)"
for field in Replaces Conflicts Provides; do
    [[ $(dpkg-deb --field "$deb" $field) == "python-pynatconnd, python3-pynatconnd" ]] || fail "the .deb's $field"
done
version=$(query_rpm --qf '%{VERSION}-%{RELEASE}')
query_rpm --obsoletes | grep -x "python-natconnd < 1.0.0" >/dev/null || fail "the .rpm's Obsoletes"
query_rpm --provides | grep -x "python-natconnd = $version" >/dev/null || fail "the .rpm's Provides"
