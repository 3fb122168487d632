#!/bin/sh
# PID 1 of the emulated metal: brings the machine up, runs one command, sends back its output, its files and its
# exit status, and powers off. It talks to xtask through named virtio-serial ports; the UART is for the kernel.
export PATH=/in:/bin:/sbin:/usr/bin:/usr/sbin HOME=/root TERM=linux

# The first root of a kernel cannot be pivoted away from. A bind mount of it, moved over it, can.
if [ "$1" != staged ]; then
    /bin/busybox mkdir -p /staged
    /bin/busybox mount -o bind / /staged
    cd /staged || exit 1
    /bin/busybox mount -o move . /
    exec /bin/busybox chroot . /init staged
fi
cd /
/bin/busybox --install -s /bin

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm /dev/mqueue /run /tmp /in /out /root /var/tmp /etc /mnt
mount -t devpts -o mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=1777,size=90% tmpfs /tmp
mount -t mqueue mqueue /dev/mqueue
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -o remount,size=90% /
ln -sf /proc/self/fd /dev/fd
ln -sf /proc/self/fd/0 /dev/stdin
ln -sf /proc/self/fd/1 /dev/stdout
ln -sf /proc/self/fd/2 /dev/stderr
for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
    echo "+$controller" > /sys/fs/cgroup/cgroup.subtree_control
done

hostname metal
echo 'root:x:0:0:root:/root:/bin/sh
nobody:x:65534:65534:nobody:/:/bin/false' > /etc/passwd
echo 'root:x:0:
nogroup:x:65534:' > /etc/group
echo '127.0.0.1 localhost metal
::1 localhost' > /etc/hosts
echo 'nameserver 10.0.2.3' > /etc/resolv.conf
ulimit -n 65536

for module in virtio_pci virtio_console virtio_blk virtio_net tun; do
    modprobe $module
done
ip link set lo up
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
ip route add default via 10.0.2.2

# The ports appear a moment after the driver has started.
port() {
    tries=0
    while [ $tries -lt 100 ]; do
        for entry in /sys/class/virtio-ports/*; do
            if [ "$(cat "$entry/name" 2>/dev/null)" = "$1" ]; then
                echo "/dev/${entry##*/}"
                return
            fi
        done
        tries=$((tries + 1))
        sleep 0.05
    done
}
exec 9> "$(port hearth.status)"
fail() {
    echo "fail $1" >&9
    poweroff -f
}

# Drives with a serial number are the job's disks, by that name.
mkdir -p /dev/disk
for drive in /sys/block/vd*; do
    name=$(cat "$drive/serial")
    [ -n "$name" ] && ln -s "/dev/${drive##*/}" "/dev/disk/$name"
done
# Debian's programs stand before busybox's, for the command only; its shell too, since busybox's prefers its own
# programs to any in the path. Everything of theirs lies below /usr.
path=$PATH shell=/bin/sh
if [ -e /dev/disk/debian ]; then
    mkdir /debian
    mount -t erofs -o ro /dev/disk/debian /debian && mount -o bind /debian/usr /usr ||
        fail "the disk with Debian's programs could not be mounted"
    ln -s /usr/lib/ld-linux-aarch64.so.1 /lib/
    ln -s /usr/lib/aarch64-linux-gnu /lib/
    # What init has written there stays.
    (cd /debian/etc && for entry in *; do [ -e "/etc/$entry" ] || cp -a "$entry" /etc/; done)
    path=/in:/usr/sbin:/usr/bin:/bin:/sbin shell=/usr/bin/dash
fi

tar xf /dev/vda -C / || fail "the inputs could not be unpacked"
cut -d' ' -f1 /proc/uptime > /run/uptime
echo "ready $(cat /run/uptime)" >&9

if [ -e /hearth/shell ]; then
    PATH=$path setsid -c $shell /hearth/command 9>&- < /dev/hvc0 > /dev/hvc0 2>&1
    status=$?
else
    # Pipes stand between the command and the ports: a port can be opened only once, a pipe as often as one likes.
    mkfifo /run/stdout /run/stderr
    cat /run/stdout > "$(port hearth.stdout)" 9>&- &
    stdout=$!
    cat /run/stderr > "$(port hearth.stderr)" 9>&- &
    stderr=$!
    stdin=/dev/null
    [ -e /hearth/stdin ] && stdin=$(port hearth.stdin)
    PATH=$path setsid $shell /hearth/command 9>&- <> "$stdin" > /run/stdout 2> /run/stderr
    status=$?
    # Daemons that the command left behind would keep the pipes open.
    for process in /proc/[0-9]*; do
        process=${process##*/}
        case $process in
            1 | $stdout | $stderr) ;;
            *) [ -e "/proc/$process/exe" ] && kill -9 "$process" 2>/dev/null ;;
        esac
    done
    wait $stdout $stderr
fi
echo "exit $status" >&9
if [ -e /hearth/outputs ]; then
    # Only what is wanted: commands leave more there, more than the drive for it holds. An empty archive needs a folder.
    mkdir -p /run/nothing
    set --
    while read -r name; do
        [ -e "/out/$name" ] && set -- "$@" "$name"
    done < /hearth/outputs
    if [ $# -eq 0 ]; then
        set -- -C /run/nothing .
    fi
    tar cf /dev/vdb -C /out "$@" || fail "the outputs could not be packed (the drive for them may be full)"
fi
echo done >&9
poweroff -f
