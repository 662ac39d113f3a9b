#!/usr/bin/env bash
# Checks the packages of `make deb` and `make rpm` with lintian, rpmlint and systemd-analyze, and compares the contents
# of the two. A finding is an error unless a file here gives the reason to accept it.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$(dirname "$here")")
packages=$root/target/package
# systemd's exposure level, in tenths. The shipped unit has 1.5.
most_exposed=16

fail() {
    echo "package lint: $*" >&2
    exit 1
}

deb=$(ls "$packages"/*.deb) || fail "no .deb: \`make deb\` builds it"
rpm=$(ls "$packages"/*.rpm) || fail "no .rpm: \`make rpm\` builds it"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Reads the .rpm without the database of installed packages, which only root can open.
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
    fail "rpmlint found problems, see above"
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
    ! grep '%' "$work/$tag" || fail "the .rpm's $tag contains a macro that was not expanded"
done

echo "systemd"
dpkg-deb --extract "$deb" "$work/deb"
mkdir "$work/rpm"
(cd "$work/rpm" && rpm2cpio "$rpm" | cpio --quiet --extract --make-directories)
mkdir "$work/units"
# Debian 12 has them in /lib, and /lib in /usr.
in_deb=$(find "$work/deb" -path '*lib/systemd/system')
for unit in service socket; do
    # The program is in the unpacked package, not in /usr.
    sed "s|=/usr/bin/|=$work/deb/usr/bin/|" "$in_deb/pynatconnd.$unit" >"$work/units/pynatconnd.$unit"
    cmp "$in_deb/pynatconnd.$unit" "$work/rpm/usr/lib/systemd/system/pynatconnd.$unit"
done
systemd-analyze verify --man=no "$work"/units/pynatconnd.{service,socket} 2>&1 | tee "$work/verify"
! grep -q 'pynatconnd\.' "$work/verify" || fail "systemd-analyze verify found problems, see above"
systemd-analyze security --no-pager --offline=yes --threshold=$most_exposed "$work/units/pynatconnd.service" |
    tail -n 1
systemd-sysusers --dry-run "$work/deb/usr/lib/sysusers.d/pynatconnd.conf" >/dev/null 2>&1 ||
    fail "systemd-sysusers rejects the sysusers.d file"

echo "contents"
list() {
    (cd "$1" && find . ! -type d ! -path './usr/share/doc/*' ! -path './usr/share/licenses/*' \
        ! -path './usr/lib/.build-id/*' | sed -e 's|^\./lib/|./usr/lib/|' \
        -e 's|/vendor-completions/|/site-functions/|' -e '/nagios/d' | sort)
}
diff <(list "$work/deb") <(list "$work/rpm") || fail "the packages differ in their files, see above"
cmp "$root/pynatconnd.conf" "$work/deb/etc/pynatconnd.conf"
grep -qx /etc/pynatconnd.conf "$work/control/conffiles" || fail "the .deb does not declare /etc/pynatconnd.conf as a conffile"
[[ $(query_rpm --qf '[%{FILENAMES} %{FILEFLAGS:fflags}\n]' | grep /etc/) == "/etc/pynatconnd.conf cn" ]] ||
    fail "in the .rpm, /etc/pynatconnd.conf is not %config(noreplace)"
for field in Replaces Conflicts Provides; do
    [[ $(dpkg-deb --field "$deb" $field) == "python-pynatconnd, python3-pynatconnd" ]] || fail "the .deb's field $field is wrong"
done
version=$(query_rpm --qf '%{VERSION}-%{RELEASE}')
query_rpm --obsoletes | grep -x "python-natconnd < 1.0.0" >/dev/null || fail "the .rpm's Obsoletes is wrong"
query_rpm --provides | grep -x "python-natconnd = $version" >/dev/null || fail "the .rpm's Provides is wrong"
