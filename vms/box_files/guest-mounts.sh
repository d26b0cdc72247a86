#!/bin/sh
# Change mounts as the kernel command line asks:  guest.home=OPTIONS  guest.proc=OPTIONS
# Runs once a boot, before users can log in. A profile proves by its facts that it worked.
set -eu

# Words without blanks or wildcards: a profile's own arguments.
# shellcheck disable=SC2013
for word in $(cat /proc/cmdline); do
    case $word in
    guest.home=*) # a mount of its own, so that the options are those of home directories only
        mount --bind /home /home
        mount -o "remount,bind,${word#guest.home=}" /home ;;
    guest.proc=*)
        mount -o "remount,${word#guest.proc=}" /proc ;;
    esac
done
