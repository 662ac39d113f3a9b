#!/usr/bin/env bash
# Tests the packages of `make deb` and `make rpm` in clean roots of Debian: on an empty system, over imitations of the
# Python program's packages, with systemd booted, and unpacked from the .rpm. The daemon runs as its user with its one
# capability behind the demo's NAT. Then the package is removed, and no file may be left. Needs root, systemd-nspawn
# and, for the first run, a network (target/package/roots keeps the roots).
# run.sh [SUITE...]: bookworm and trixie by default
set -euo pipefail

PATH=$PATH:/usr/sbin:/sbin

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(dirname "$(dirname "$here")")
packages=$top/target/package
conf=/etc/pynatconnd.conf

fail() {
    echo "package test: $*" >&2
    [[ ! -s ${log-} ]] || tail -n 40 "$log" >&2
    exit 1
}

((EUID == 0)) || fail "needs root, for roots of their own"
for tool in debootstrap dpkg-deb rpm rpmbuild rpm2cpio cpio systemd-nspawn setpriv; do
    command -v "$tool" >/dev/null || fail "needs the tool $tool: \`make package-test\` installs it"
done
deb=$(ls "$packages"/*.deb) || fail "no .deb: \`make deb\` builds it"
rpm=$(ls "$packages"/*.rpm) || fail "no .rpm: \`make rpm\` builds it"

# Mounts are visible only to this process and end with it.
[[ ${1-} == --inside ]] || exec unshare --mount --propagation private bash "$here/run.sh" --inside "$@"
shift
(($#)) || set -- bookworm trixie

work=$(mktemp -d -p "$packages")
root=$work/root
log=$work/log
machine=pynatconnd-test-$$
unmount() {
    ! mountpoint -q "$root/proc" || umount "$root/proc"
}
clean_up() {
    unmount
    rm -rf "$work" "/run/systemd/nspawn/propagate/$machine"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

say() {
    printf '%-10s %s\n' "$suite" "$*"
}

# ---------------------------------------------------------------- roots

in_root() {
    chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 \
        "$@" </dev/null >>"$log" 2>&1
}

apt() {
    in_root apt-get -qy -o APT::Sandbox::User=root --no-install-recommends "$@" ||
        fail "$suite: apt-get $* has failed"
}

# Makes $root: a root with only the distribution's packages, including the dependencies of ours.
fresh_root() {
    : >"$log"
    unmount
    rm -rf "$root"
    mkdir "$root"
    local kept=$packages/roots/$suite.tar
    if [[ ! -e $kept ]]; then
        say "making a root"
        debootstrap --variant=minbase "$suite" "$root" >>"$log" 2>&1 || fail "debootstrap of $suite has failed"
        cp --dereference /etc/resolv.conf "$root/etc/"
        cp "$deb" "$root/root/"
        apt update
        apt satisfy "$(dpkg-deb --field "$deb" Depends)"
        rm "$root"/root/*.deb
        mkdir -p "${kept%/*}"
        tar --create --file "$kept.new" --one-file-system -C "$root" .
        # So that `make clean` works without root.
        chown --reference "$packages" "${kept%/*}" "$kept.new"
        mv "$kept.new" "$kept"
    else
        tar --extract --file "$kept" -C "$root"
    fi
    mount -t proc proc "$root/proc"
}

# Installs a package file as an administrator would, without questions.
install_deb() {
    cp "$1" "$root/root/package.deb"
    apt install /root/package.deb
    rm "$root/root/package.deb"
}

state_of() {
    # shellcheck disable=SC2016 # dpkg-query replaces it
    chroot "$root" dpkg-query --show --showformat '${db:Status-Status}' "$1" 2>/dev/null || echo not-installed
}

# Prints a file's owner, mode, time of change and content.
look_at() {
    stat --format '%a %u:%g %Y' "$root$1"
    cat "$root$1"
}

# ---------------------------------------------------------------- the daemon, as the unit starts it

# The first example of the README's section on configuration.
readme_conf() {
    sed -n '/^## Configuring it/,$p' "$top/README.md" | sed -e '1,/^```ini/d' | sed -e '/^```/,$d'
}

# Runs the demo with the installed daemon, as the unit starts it: user, capability and ExecStart.
answers() {
    local unit command
    readme_conf >"$root$conf"
    grep -q '^nat_ip' "$root$conf" || fail "found no nat_ip in the configuration of README.md"
    unit=$(find "$root/usr/lib/systemd/system" "$root/lib/systemd/system" -name pynatconnd.service | head -n 1)
    command=$(sed -n 's/^ExecStart=//p' "$unit")
    rm -f "$work/status"
    cat >"$work/start" <<END
#!/usr/bin/env bash
(
    while [[ -d /proc/\$\$ && \$(cat /proc/\$\$/comm) != pynatconnd ]]; do sleep 0.01; done
    cat /proc/\$\$/status >"$work/status"
) &
exec chroot "$root" setpriv --reuid=pynatconnd --regid=pynatconnd --init-groups --no-new-privs \\
    --inh-caps=-all,+net_admin --ambient-caps=-all,+net_admin --bounding-set=-all,+net_admin $command
END
    chmod +x "$work/start"
    "$top/demo/run.sh" --built "$work/start" >"$work/demo" 2>&1 || {
        cat "$work/demo" >&2
        fail "$suite: the demo failed with $command, see above"
    }
    grep -Eq '^100\.64\.2\.1:[0-9]+ is 192\.168\.7\.2:40001\.$' "$work/demo" || fail "$suite: the lookup found nothing"
    local uid
    uid=$(chroot "$root" id -u pynatconnd)
    ((uid != 0)) || fail "$suite: the user pynatconnd is root"
    grep -Eq "^Uid:.$uid.$uid.$uid.$uid$" "$work/status" || fail "$suite: the daemon does not run as user $uid: $(<"$work/status")"
    # CAP_NET_ADMIN is number 12.
    (($(grep -Ec '^Cap(Inh|Prm|Eff|Bnd|Amb):.0000000000001000$' "$work/status") == 5)) ||
        fail "$suite: the capabilities are not CAP_NET_ADMIN alone: $(<"$work/status")"
}

# ---------------------------------------------------------------- older packages

# An imitation of the Python program's package: python_deb NAME makes $work/NAME.deb
python_deb() {
    local tree=$work/$1
    rm -rf "$tree"
    install -D /dev/stdin "$tree/usr/bin/pynatconnd" <<<'#!/usr/bin/python3'
    install -D -m 644 /dev/stdin "$tree/lib/systemd/system/pynatconnd.service" <<'END'
[Service]
ExecStart=/usr/bin/pynatconnd
[Install]
WantedBy=multi-user.target
END
    install -D -m 644 /dev/stdin "$tree$conf" <<<$'[data]\nkey_name = nat_port'
    mkdir "$tree/DEBIAN"
    echo $conf >"$tree/DEBIAN/conffiles"
    cat >"$tree/DEBIAN/control" <<END
Package: $1
Version: 0.15
Architecture: all
Maintainer: nobody <nobody@pynatconnd.invalid>
Description: imitates the Python program's package
END
    dpkg-deb --root-owner-group --build "$tree" "$work/$1.deb" >>"$log"
}

# A changed copy of our package: repack NAME COMMAND... runs the command in its tree and makes $work/NAME.deb
repack() {
    local tree=$work/$1
    rm -rf "$tree"
    dpkg-deb --raw-extract "$deb" "$tree"
    (cd "$tree" && "${@:2}")
    dpkg-deb --root-owner-group --build "$tree" "$work/$1.deb" >>"$log"
}

edit_conf() {
    printf '[filter]\nnat_ip = 100.64.2.1\n# mine\n[data]\nkey_name = nat_port\n' >"$root$conf"
    chmod 640 "$root$conf"
    touch --date='2020-02-02 02:02' "$root$conf"
}

# ---------------------------------------------------------------- the .deb

files() {
    (cd "$root" && find . -xdev ! -path './var/lib/dpkg/*' ! -path './var/lib/apt/*' ! -path './var/cache/*' \
        ! -path './var/log/*' ! -path './etc/*-' ! -path './root/*' ! -path './etc/ld.so.cache' | sort)
}

nothing_left() {
    diff "$work/before" <(files) || fail "$suite: files differ after $*, see above"
    # Files that end in - are backups of the tools for users.
    ! grep -r --exclude='*-' pynatconnd "$root/etc" || fail "$suite: pynatconnd is still in /etc after $*"
    [[ $(state_of pynatconnd) == not-installed ]] || fail "$suite: dpkg still lists the package after $*"
}

alone() {
    fresh_root
    files >"$work/before"
    install_deb "$deb"
    cmp "$root$conf" "$top/pynatconnd.conf"
    in_root pynatconnd --check-config || fail "$suite: --check-config rejects the shipped configuration"
    answers
    local seen
    seen=$(look_at $conf)
    apt remove pynatconnd
    [[ $(look_at $conf) == "$seen" && ! -e $root/usr/bin/pynatconnd ]] || fail "$suite: a removal kept the program or changed $conf"
    install_deb "$deb"
    [[ $(look_at $conf) == "$seen" ]] || fail "$suite: the configuration changed through removal and installation"
    apt purge pynatconnd
    nothing_left "a purge"
    say ".deb alone: installed, lookup answered (own user, CAP_NET_ADMIN only), removed, purged"
}

# over WHAT [NAME]: over a configuration, which the package NAME has installed
over() {
    local what=$1 name=${2-} seen
    fresh_root
    files >"$work/before"
    if [[ $name ]]; then
        python_deb "$name"
        install_deb "$work/$name.deb"
    fi
    [[ $what == unedited* ]] || edit_conf
    seen=$(look_at $conf)

    # A failed installation changes nothing.
    # shellcheck disable=SC2016 # sed's
    repack failing sed -i 's/^#DEBHELPER#$/exit 1/; $a exit 1' DEBIAN/preinst
    cp "$work/failing.deb" "$root/root/"
    ! in_root dpkg --auto-deconfigure --force-conflicts --install /root/failing.deb || fail "$suite, $what: the failing package was installed"
    [[ $(look_at $conf) == "$seen" ]] || fail "$suite, $what: a failed installation changed $conf"
    in_root dpkg --purge --force-remove-reinstreq pynatconnd || true
    [[ $(look_at $conf) == "$seen" ]] || fail "$suite, $what: the end of a failed installation changed $conf"

    install_deb "$deb"
    [[ $(look_at $conf) == "$seen" ]] || fail "$suite, $what: the installation changed $conf"
    if [[ $name ]]; then
        [[ $(state_of "$name") != installed ]] || fail "$suite, $what: $name is still installed"
        apt purge "$name"
        [[ $(look_at $conf) == "$seen" ]] || fail "$suite, $what: purging $name changed $conf"
    fi
    repack newer sed -i 's/^Version: .*/Version: 1.0.1/' DEBIAN/control
    install_deb "$work/newer.deb"
    [[ $(look_at $conf) == "$seen" ]] || fail "$suite, $what: an upgrade changed $conf"
    [[ -z $(find "$root/etc" -name 'pynatconnd.conf?*') ]] || fail "$suite, $what: copies of $conf in /etc"
    if [[ $what != unedited* ]]; then
        local advice="chgrp pynatconnd $conf; chmod g+r $conf"
        grep -qF "$advice" "$log" || fail "$suite, $what: the daemon cannot read $conf, and the installation gives no advice"
        in_root sh -c "$advice"
    fi
    answers
    apt purge pynatconnd
    nothing_left "a purge, $what"
    say ".deb over $what: configuration unchanged, also by a failed installation, a purge of the old package and an upgrade"
}

# ---------------------------------------------------------------- systemd

booted() {
    fresh_root
    cp "$deb" "$root/root/pynatconnd.deb"
    repack newer sed -i 's/^Version: .*/Version: 1.0.1/' DEBIAN/control
    cp "$work/newer.deb" "$root/root/"
    cat >"$root/root/try.sh" <<'END'
set -eux
property() { systemctl show --property "$1" --value "${2-pynatconnd.service}"; }
wait_for() { for i in $(seq 200); do ! "$@" || return 0; sleep 0.1; done; false; }

# A short watchdog, so that this test need not wait long.
mkdir -p /etc/systemd/system/pynatconnd.service.d
printf '[Service]\nWatchdogSec=4\n' >/etc/systemd/system/pynatconnd.service.d/watchdog.conf
dpkg --install /root/pynatconnd.deb
test "$(systemctl is-enabled pynatconnd.service)" = enabled
test "$(systemctl is-enabled pynatconnd.socket)" = disabled
test "$(systemctl is-active pynatconnd.service)" = active
property StatusText | grep "the table equals the kernel's"
grep -E '^CapEff:.0000000000001000$' /proc/"$(property MainPID)"/status
grep -E '^Seccomp:.2$' /proc/"$(property MainPID)"/status
test "$(cat /proc/sys/net/netfilter/nf_conntrack_events)" = 1
test "$(cat /proc/sys/net/netfilter/nf_conntrack_timestamp)" = 1
journalctl --unit pynatconnd | grep 'listening on http://127.0.0.1:8080'
/usr/lib/nagios/plugins/check_pynatconnd

: a reload, and one with an invalid file
pid=$(property MainPID)
sed -i 's/^port = .*/port = 8082/' /etc/pynatconnd.conf
systemctl reload pynatconnd
property StatusText | grep 'is in force'
wait_for sh -c 'journalctl --unit pynatconnd | grep "listening on http://127.0.0.1:8082"'
echo nonsense >>/etc/pynatconnd.conf
! systemctl reload pynatconnd
journalctl --unit pynatconnd | grep 'pynatconnd.conf:.*nonsense'
wait_for sh -c 'journalctl --unit pynatconnd | grep "reload failed, the old configuration stays in force"'
test "$(systemctl is-active pynatconnd)" = active
test "$(property MainPID)" = "$pid"

: a start with an invalid file is tried once
! systemctl restart pynatconnd
test "$(property ExecMainStatus)" = 78
test "$(property NRestarts)" = 0
sed -i '$d' /etc/pynatconnd.conf
systemctl reset-failed pynatconnd

: a port below 1024, from the socket
mkdir -p /etc/systemd/system/pynatconnd.socket.d
printf '[Socket]\nListenStream=\nListenStream=127.0.0.1:80\n' >/etc/systemd/system/pynatconnd.socket.d/port.conf
systemctl daemon-reload
systemctl enable --now pynatconnd.socket
systemctl start pynatconnd.service
journalctl --unit pynatconnd | grep 'listening on http://127.0.0.1:80$'
check_pynatconnd -p 80

: the socket stays open during an upgrade
dpkg --install /root/newer.deb
test "$(systemctl is-active pynatconnd.socket)" = active
test "$(systemctl is-active pynatconnd.service)" = active
check_pynatconnd -p 80
dpkg --remove pynatconnd
! systemctl is-active pynatconnd.socket
dpkg --install /root/pynatconnd.deb
systemctl disable --now pynatconnd.socket
systemctl stop pynatconnd.service

: a port below 1024, from a capability
cat >/etc/systemd/system/pynatconnd.service.d/port.conf <<'DROP_IN'
@DROP_IN@
DROP_IN
sed -i 's/^port = .*/port = 81/' /etc/pynatconnd.conf
systemctl daemon-reload
systemctl start pynatconnd.service
journalctl --unit pynatconnd | grep 'listening on http://127.0.0.1:81$'

: systemd restarts a daemon that hangs
kill -STOP "$(property MainPID)"
wait_for sh -c 'test "$(systemctl show --property NRestarts --value pynatconnd)" = 1'
journalctl --unit pynatconnd | grep 'Watchdog timeout'
wait_for systemctl is-active pynatconnd

dpkg --purge pynatconnd
! systemctl is-active pynatconnd
! getent passwd pynatconnd
touch /root/tried
END
    # As in the guide.
    local drop_in
    drop_in=$(sed -n '/^\*\*A port below 1024/,$p' "$top/doc/OPERATIONS.md" | sed -e '1,/^```systemd/d' | sed -e '/^```/,$d')
    grep -q '^AmbientCapabilities' <<<"$drop_in" || fail "found no AmbientCapabilities in the drop-in of doc/OPERATIONS.md"
    awk -v text="$drop_in" '$0 == "@DROP_IN@" { $0 = text } 1' "$root/root/try.sh" >"$work/try.sh"
    cp "$work/try.sh" "$root/root/try.sh"
    cat >"$root/etc/systemd/system/try.service" <<'END'
[Unit]
After=multi-user.target
[Service]
ExecStart=-/bin/sh -c 'sh /root/try.sh >/root/try.log 2>&1; systemctl --force --force poweroff'
END
    mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
    ln -s ../try.service "$root/etc/systemd/system/multi-user.target.wants/try.service"
    unmount
    # systemd reports mounts that it cannot unmount at the end; the file shows success.
    SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 timeout 180 systemd-nspawn --quiet --directory="$root" --machine="$machine" \
        --private-network --register=no --keep-unit --console=pipe /usr/lib/systemd/systemd \
        </dev/null >"$work/boot" 2>&1 || true
    [[ -e $root/root/tried ]] || {
        cat "$work/boot" >&2
        log=$root/root/try.log
        fail "$suite: the test under systemd failed, see above"
    }
    say ".deb under systemd: started, ready, reloaded, invalid file rejected, ports below 1024, watchdog, purged"
}

# ---------------------------------------------------------------- the .rpm

unpacked_rpm() {
    fresh_root
    (cd "$root" && rpm2cpio "$rpm" | cpio --quiet --extract --make-directories --unconditional)
    rpm -qp --qf '%{POSTIN}' "$rpm" >"$root/root/post.sh"
    in_root sh -e /root/post.sh 1 || fail "the .rpm's %post fails"
    answers
    say ".rpm unpacked: %post creates the user, lookup answered (own user, CAP_NET_ADMIN only)"
}

# rpm has its own database, so the packages of dpkg in the root do not matter.
rpm_in_root() {
    rpm --root "$root" --force-debian "$@" >>"$log" 2>&1
}

# rpm_over WHAT
rpm_over() {
    local what=$1 seen
    fresh_root
    cat >"$work/python.spec" <<END
Name: python-natconnd
Version: 0.15
Release: 1
Summary: imitates the Python program's package
License: none
BuildArch: noarch
%description
It does.
%install
install -D -m 755 /dev/stdin %{buildroot}/usr/bin/pynatconnd <<<'#!/usr/bin/python3'
install -D -m 644 /dev/stdin %{buildroot}$conf <<<'[data]'
%files
/usr/bin/pynatconnd
%config(noreplace) $conf
END
    rpmbuild -bb --define "_topdir $work/rpmbuild" --define "_buildshell /bin/bash" "$work/python.spec" >>"$log" 2>&1 ||
        fail "cannot build the imitation of python-natconnd"
    rpm_in_root --install --nodeps "$work"/rpmbuild/RPMS/noarch/*.rpm || fail "cannot install the imitation of python-natconnd"
    [[ $what == unedited* ]] || edit_conf
    chmod 644 "$root$conf"
    seen=$(look_at $conf)
    rpm_in_root --upgrade --nodeps "$rpm" || fail "the .rpm does not install"
    ! rpm_in_root --query python-natconnd || fail "python-natconnd is still there"
    [[ $(look_at $conf) == "$seen" ]] || fail "the .rpm changed $conf, $what"
    rpm_in_root --verify --nodeps --noscripts --nouser --nogroup pynatconnd ||
        [[ $(rpm --root "$root" --verify --nodeps pynatconnd | grep -v ' c ') == "" ]] ||
        fail "rpm --verify finds changed files"
    answers
    rpm_in_root --erase pynatconnd || fail "the .rpm cannot be removed"
    # rpm leaves these for any configuration that was changed.
    rm -f "$root$conf.rpmnew" "$root$conf.rpmsave"
    local left
    left=$(find "$root" -xdev -name '*pynatconnd*')
    [[ -z $left ]] || fail "the .rpm leaves files: $left"
    say ".rpm over $what: configuration unchanged, lookup answered, removed"
}

for suite; do
    alone
    over "an edited conffile of python3-pynatconnd" python3-pynatconnd
    over "unedited conffile of python-pynatconnd" python-pynatconnd
    over "a file of the administrator's own"
    booted
    unpacked_rpm
    rpm_over "an edited configuration of python-natconnd"
    rpm_over "unedited configuration of python-natconnd"
done
