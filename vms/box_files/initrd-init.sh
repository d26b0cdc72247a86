#!/bin/busybox sh
# shellcheck shell=dash
# Process 1 of a small initrd (2 MB; Debian's own takes an emulated CPU seconds to unpack): load what
# the root disk needs, mount it, become its init.
busybox=/bin/busybox
$busybox mount -t devtmpfs none /dev

while read -r module; do
    $busybox insmod "/modules/$module" || $busybox echo "initrd: cannot load $module"
done < /modules/order

for _ in $($busybox seq 100); do
    [ -b /dev/vda ] && break
    $busybox usleep 50000
done

$busybox mount -t ext4 -o noatime /dev/vda /new || $busybox echo 'initrd: no root disk'
$busybox umount /dev
# Without a root disk this fails, the kernel panics, and the console log ends in the reason.
exec $busybox switch_root /new /sbin/init
