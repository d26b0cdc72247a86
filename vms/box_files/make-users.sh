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
    asker) # sudo is allowed and asks for a password, his name. (`openssl passwd -6 -salt locald asker`: a salt of
        # chpasswd's would be random.)
        # shellcheck disable=SC2016
        usermod --password '$6$locald$Ib60ULuANT/huU38QGiYWRt7bQQ2Ridj5ThZYaTC5g5P6Tzk5qJBcXB2GhLWbRmx6quj.HGtFSczoLV.pfK59/' "$name"
        printf '%s ALL=(ALL:ALL) PASSWD: ALL\n' "$name" > "/etc/sudoers.d/$name"
        chmod 0440 "/etc/sudoers.d/$name" ;;
    confined) # An ordinary account where there is no such policy; no profile promises it there.
        [ -d /var/lib/selinux/default/active ] || continue
        # What `semanage login` writes. The rebuilt policy also has labels for his home: it
        # separates files by SELinux user.
        printf '%s:user_u:s0\n' "$name" >> /var/lib/selinux/default/active/seusers.local
        semodule --noreload --build ;;
    esac
done
