#!/bin/sh
# Installs, upgrades or removes lb-agent from the archive that this file lies in.
#
# Nothing is compiled and nothing fetched. An upgrade keeps the configuration and what was changed
# at run time, and the kernel goes on forwarding while the agent is replaced.
set -eu

usage() {
    cat <<'END'
Usage: sh install.sh [OPTIONS]
Installs lb-agent, or upgrades it, from the directory that this file lies in.

  --no-start     install only; neither enable nor start the service
  --root DIR     install below DIR, for an image; implies --no-start
  --uninstall    stop the service, take everything out of the kernel, remove the files;
                 the configuration and what was changed at run time stay
  --purge        the same, and remove those too
  --help         print this
END
}

say() { echo "lb-agent: $*"; }
die() { echo "lb-agent: $*" >&2; exit 1; }

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
action=install root='' start=yes
while [ $# -gt 0 ]; do
    case $1 in
    --no-start) start=no ;;
    --root)
        [ $# -gt 1 ] || die "--root needs a directory"
        shift
        # "/" is where it goes anyway.
        root=${1%/}
        [ -z "$root" ] || start=no
        ;;
    --uninstall) action=uninstall ;;
    --purge) action=purge ;;
    --help | -h) usage; exit 0 ;;
    *) usage >&2; die "unknown option $1" ;;
    esac
    shift
done

PROGRAM=/usr/local/bin/lb-agent
SHARE=/usr/local/share
UNIT=/etc/systemd/system/lb-agent.service
INIT=/etc/init.d/lb-agent
CONFIG=/etc/lb-agent/config.toml

# Which of them starts services: systemd, openrc, sysv or none.
init_system() {
    if [ -z "$root" ] && [ -d /run/systemd/system ]; then
        echo systemd
    elif [ -x "$root/sbin/openrc-run" ] || [ -x "$root/usr/sbin/openrc-run" ]; then
        echo openrc
    elif [ -x "$root/lib/systemd/systemd" ] || [ -x "$root/usr/lib/systemd/systemd" ]; then
        echo systemd
    elif [ -d "$root/etc/init.d" ]; then
        echo sysv
    else
        echo none
    fi
}

# Whether it can be asked to start anything now.
live() {
    [ "$start" = yes ] || return 1
    [ "$1" != systemd ] || [ -d /run/systemd/system ]
}

check() {
    [ "$(uname -s)" = Linux ] || die "this is for Linux, not for $(uname -s)"
    [ -n "$root" ] || [ "$(id -u)" = 0 ] || die "this takes root, please run: sudo sh $0"
    [ -z "$root" ] || [ -d "$root" ] || die "there is no directory $root"
    if [ -x "$root/usr/bin/lb-agent" ]; then
        die "it is installed as a package (/usr/bin/lb-agent); upgrade or remove that by your package manager"
    fi
}

check_archive() {
    for file in lb-agent config.toml lb-agent.service lb-agent.openrc lb-agent.sysv; do
        [ -f "$here/$file" ] || die "$here/$file is missing; unpack the whole archive and run its install.sh"
    done
    arch=$(cat "$here/architecture")
    [ "$(uname -m)" = "$arch" ] || die "this archive is for $arch, and this machine is $(uname -m)"
    # Below another root it may be meant for another C library.
    [ -n "$root" ] || version=$("$here/lb-agent" --version 2>&1) ||
        die "the program does not run here: $version (it needs glibc 2.34 or later)"
    kernel=$(uname -r)
    major=${kernel%%.*} minor=${kernel#*.}
    minor=${minor%%[!0-9]*}
    if [ "$major" -lt 6 ] || { [ "$major" -eq 6 ] && [ "$minor" -lt 1 ]; }; then
        say "Linux $kernel is older than 6.1: every connection will go through the agent"
    fi
}

# By a rename: a program that runs cannot be written to.
put() {
    mkdir -p "$root$(dirname "$2")"
    cp "$here/$1" "$root$2.new"
    chmod "$3" "$root$2.new"
    mv -f "$root$2.new" "$root$2"
}

put_config() {
    if [ -e "$root$CONFIG" ]; then
        say "keeping $CONFIG as it is"
    else
        put config.toml "$CONFIG" 644
    fi
}

put_documents() {
    for page in "$here"/man/*.1; do
        put "man/${page##*/}" "$SHARE/man/man1/${page##*/}" 644
    done
    put config.schema.json "$SHARE/lb-agent/config.schema.json" 644
    put completions/lb-agent.bash "$SHARE/bash-completion/completions/lb-agent" 644
    put completions/_lb-agent "$SHARE/zsh/site-functions/_lb-agent" 644
    put completions/lb-agent.fish "$SHARE/fish/vendor_completions.d/lb-agent.fish" 644
    [ ! -d "$root/etc/logrotate.d" ] || put lb-agent.logrotate /etc/logrotate.d/lb-agent 644
}

put_service() {
    case $1 in
    systemd)
        put lb-agent.service "$UNIT" 644
        put lb-agent.sysusers /usr/lib/sysusers.d/lb-agent.conf 644
        ;;
    openrc) put lb-agent.openrc "$INIT" 755 ;;
    sysv) put lb-agent.sysv "$INIT" 755 ;;
    esac
}

# The agent's own user under systemd. Members of the group may change things through its control socket.
add_user() {
    [ -z "$root" ] || return 0
    grep -q '^lb-agent:' /etc/group ||
        groupadd --system lb-agent 2>/dev/null || addgroup -S lb-agent 2>/dev/null ||
        say "no group lb-agent could be made: only root can change things"
    if [ "$1" != systemd ] || grep -q '^lb-agent:' /etc/passwd; then return 0; fi
    useradd --system --gid lb-agent --no-create-home --home-dir / --shell /sbin/nologin lb-agent ||
        die "no user lb-agent could be made, as which the service runs"
}

# Now and at every boot.
enable() {
    case $1 in
    systemd)
        systemctl daemon-reload
        systemctl enable lb-agent
        # Starts it, or hands over to the new version: connections do not notice.
        systemctl restart lb-agent
        ;;
    openrc)
        rc-update add lb-agent default
        rc-service lb-agent restart
        ;;
    sysv)
        if command -v update-rc.d >/dev/null; then
            update-rc.d lb-agent defaults >/dev/null
        elif command -v chkconfig >/dev/null; then
            chkconfig --add lb-agent
        else
            say "neither update-rc.d nor chkconfig is there: it is not started at boot"
        fi
        # No client is refused, where the agent that runs is of a version that hands over.
        "$INIT" upgrade || "$INIT" restart
        ;;
    none)
        say "no init system is known here; start it by: lb-agent run --config $CONFIG"
        ;;
    esac
}

disable() {
    case $1 in
    systemd)
        systemctl disable --now lb-agent 2>/dev/null || true
        ;;
    openrc)
        rc-service lb-agent stop || true
        rc-update delete lb-agent default 2>/dev/null || true
        ;;
    sysv)
        if [ -x "$INIT" ]; then "$INIT" stop || true; fi
        if command -v update-rc.d >/dev/null; then
            update-rc.d -f lb-agent remove >/dev/null || true
        elif command -v chkconfig >/dev/null; then
            chkconfig --del lb-agent 2>/dev/null || true
        fi
        ;;
    esac
}

install() {
    check_archive
    init=$(init_system)
    put lb-agent "$PROGRAM" 755
    put_service "$init"
    put_documents
    put_config
    add_user "$init"
    say "installed $PROGRAM, for ${init}"
    if live "$init"; then
        enable "$init"
    else
        say "not started"
    fi
}

uninstall() {
    if [ -e "$root$PROGRAM" ]; then
        remove
    elif [ "$action" = uninstall ] || [ ! -d "$root/etc/lb-agent" ] || [ -e "$root/usr/bin/lb-agent" ]; then
        die "it is not installed at $root$PROGRAM"
    fi
    if [ "$action" = purge ]; then
        forget
        say "removed, with its configuration and state"
    else
        say "removed; $CONFIG and /var/lib/lb-agent are kept (--purge removes them)"
    fi
}

remove() {
    init=$(init_system)
    if live "$init"; then disable "$init"; fi
    if [ -z "$root" ]; then
        "$PROGRAM" stop --purge ||
            die "what is in the kernel could not be removed; see \"lb-agent stop --purge\" (nothing was removed)"
    fi
    rm -f "$root$PROGRAM" "$root$UNIT" "$root$INIT" "$root/usr/lib/sysusers.d/lb-agent.conf" \
        "$root/etc/logrotate.d/lb-agent" "$root$SHARE"/man/man1/lb-agent.1 \
        "$root$SHARE"/man/man1/lb-agent-*.1 "$root$SHARE/bash-completion/completions/lb-agent" \
        "$root$SHARE/zsh/site-functions/_lb-agent" "$root$SHARE/lb-agent/config.schema.json" \
        "$root$SHARE/fish/vendor_completions.d/lb-agent.fish"
    rmdir "$root$SHARE/lb-agent" 2>/dev/null || true
    if [ "$init" = systemd ] && live systemd; then systemctl daemon-reload; fi
}

# What an uninstallation keeps.
forget() {
    rm -rf "$root/etc/lb-agent" "$root/var/lib/lb-agent" "$root/var/log/lb-agent" \
        "$root/var/log/lb-agent.log"
    if [ -z "$root" ] && grep -q '^lb-agent:' /etc/passwd; then
        userdel lb-agent 2>/dev/null || true
    fi
    if [ -z "$root" ] && grep -q '^lb-agent:' /etc/group; then
        groupdel lb-agent 2>/dev/null || delgroup lb-agent 2>/dev/null || true
    fi
}

check
case $action in
install) install ;;
*) uninstall ;;
esac
