#!/bin/busybox sh
# The first process of a guest: mounts what a machine has, runs /guest/run.sh, and turns the
# machine off.
export PATH=/usr/sbin:/usr/bin HOME=/root TERM=dumb LC_ALL=C
mount() { busybox mount "$@"; }
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm
mount -t tmpfs shm /dev/shm
mount -t tmpfs run /run
mount -t tmpfs tmp /tmp
chmod 1777 /tmp
mkdir -p /run/netns /run/lock
ln -sfn /proc/self/fd /dev/fd
[ -d /sys/fs/cgroup ] && mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
ip link set lo up
echo "=== $(uname -r) is up, $(nproc) CPUs"
cd /guest
sh /guest/run.sh
busybox poweroff -f
