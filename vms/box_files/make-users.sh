#!/bin/sh
# Make the accounts of a profile:  make-users.sh NAME...
# Runs as root where the accounts are to be: in a box's root, or in the private /etc of `local`.
set -eu

for name; do
    useradd --create-home --shell /bin/bash "$name"
    case $name in
    plain) # Debian's useradd grants the subordinate ids; say so rather than find out later.
        grep -q "^$name:" /etc/subuid && grep -q "^$name:" /etc/subgid ;;
    bare)
        sed -i "/^$name:/d" /etc/subuid /etc/subgid ;;
    asker) # sudo is allowed and asks for a password.
        printf '%s:%s\n' "$name" "$name" | chpasswd
        printf '%s ALL=(ALL:ALL) PASSWD: ALL\n' "$name" > "/etc/sudoers.d/$name"
        chmod 0440 "/etc/sudoers.d/$name" ;;
    confined) # What `semanage login` writes. The rebuilt policy also has labels for his home: it
        # separates files by SELinux user.
        printf '%s:user_u:s0\n' "$name" >> /var/lib/selinux/default/active/seusers.local
        semodule --noreload --build ;;
    esac
done
