#!/bin/bash
# Runs once in a box's root, as root, before its first boot:  guest-setup.sh BOX USER...
# Turns a plain Debian into a guest that Vagrant can log in to; the same for every profile of the box.
set -euo pipefail
box=$1
shift

# -- names. A fixed machine id: an empty one costs a pass at boot, `uninitialized` makes
# systemd-firstboot wait at the console for ever.
printf 'guest\n' > /etc/hostname
printf '127.0.0.1 localhost guest\n' > /etc/hosts
printf '%s' "$box" | sha256sum | head -c 32 > /etc/machine-id
rm -f /etc/resolv.conf && : > /etc/resolv.conf
: > /etc/fstab

# -- accounts. Each has a login of its own by ssh, since only a login gives pam_selinux and logind
# their say. The key is Vagrant's well-known one: the port is on the controller's loopback.
useradd --create-home --shell /bin/bash vagrant
printf 'vagrant ALL=(ALL) NOPASSWD: ALL\n' > /etc/sudoers.d/vagrant
chmod 0440 /etc/sudoers.d/vagrant
/bin/sh /tmp/make-users.sh "$@"
for user in root vagrant "$@"; do
    # A shadow entry of ! is a locked account to sshd; * has no password and may log in.
    [ "$user" = asker ] || usermod -p '*' "$user"
    ssh_directory=$(getent passwd "$user" | cut -d: -f6)/.ssh
    install -d -m 0700 -o "$user" -g "$user" "$ssh_directory"
    install -m 0600 -o "$user" -g "$user" /tmp/login.pub "$ssh_directory/authorized_keys"
done

# -- sshd: a host key that is well known too (a fresh one would make every build another box), and room for
# many sessions on a connection.
rm -f /etc/ssh/ssh_host_*
install -m 0600 /tmp/host-key /etc/ssh/ssh_host_rsa_key
cat > /etc/ssh/sshd_config.d/guest.conf <<'CONF'
HostKey /etc/ssh/ssh_host_rsa_key
PasswordAuthentication no
PermitRootLogin prohibit-password
UseDNS no
PrintLastLog no
MaxSessions 100
MaxStartups 100
CONF

# -- network: fixed addresses on QEMU's user-mode networks, set by two commands a card (networkd
# takes an emulated CPU 7 s). The first card is there for Vagrant's guest agent query only; ssh comes
# in by the second. There is no route and no name server: the guest reaches nobody.
cat > /usr/local/sbin/guest-network <<'SCRIPT'
#!/bin/sh
set -eu
ip link set lo up
for card in /sys/class/net/*; do
    case $(cat "$card/address") in
    52:54:00:1d:00:01) address=10.0.2.15/24 ;;
    52:54:00:1d:00:02) address=10.0.3.15/24 ;;
    *) continue ;;
    esac
    ip address add "$address" dev "${card##*/}"
    ip link set "${card##*/}" up
done
SCRIPT
chmod 0755 /usr/local/sbin/guest-network
cat > /etc/systemd/system/guest-network.service <<'UNIT'
[Unit]
Description=Fixed addresses of the guest
Before=network.target ssh.service
Wants=network.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/sbin/guest-network
[Install]
WantedBy=multi-user.target
UNIT
systemctl --quiet enable guest-network.service ssh.service serial-getty@ttyS0.service

# -- mounts that a profile asks for on the kernel command line, in place before anybody can log in.
install -m 0755 /tmp/guest-mounts.sh /usr/local/sbin/guest-mounts
cat > /etc/systemd/system/guest-mounts.service <<'UNIT'
[Unit]
Description=Mounts as the kernel command line has them
DefaultDependencies=no
After=systemd-remount-fs.service
Before=sysinit.target
ConditionKernelCommandLine=|guest.home
ConditionKernelCommandLine=|guest.proc
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/sbin/guest-mounts
[Install]
WantedBy=sysinit.target
UNIT
systemctl --quiet enable guest-mounts.service
# With hidepid logind sees nobody's processes, and opens no session, unless its group is let off.
install -d /etc/systemd/system/systemd-logind.service.d
printf '[Service]\nSupplementaryGroups=adm\n' > /etc/systemd/system/systemd-logind.service.d/guest.conf

# -- what nobody needs here only costs boot time or disturbs measurements.
systemctl --quiet mask systemd-firstboot.service systemd-network-generator.service getty@tty1.service \
    systemd-pstore.service systemd-update-utmp.service systemd-journal-flush.service \
    modprobe@drm.service sys-kernel-debug.mount sys-kernel-tracing.mount apt-daily.timer \
    apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer \
    systemd-tmpfiles-clean.timer docker-registry.service

# -- the journal is evidence: kept in memory, audit lines too, none dropped for being many.
install -d /etc/systemd/journald.conf.d
cat > /etc/systemd/journald.conf.d/guest.conf <<'CONF'
[Journal]
Storage=volatile
RateLimitIntervalSec=0
Audit=yes
CONF

# -- SELinux: enforcing by configuration; a profile that does not ask for it never loads it.
if [ -e /etc/selinux/config ]; then
    sed -i 's/^SELINUX=.*/SELINUX=enforcing/; s/^SELINUXTYPE=.*/SELINUXTYPE=default/' \
        /etc/selinux/config
    systemctl --quiet mask selinux-autorelabel-mark.service
fi

# -- AppArmor: every login's shell, and all that it starts, may do anything but create a user namespace. A plain
# `deny` would leave no trace in the log. Compiling the distribution's own hundred profiles at each boot takes an
# emulated CPU 7 s, and none of them is about what runs here.
if [ -d /etc/apparmor.d ]; then
    find /etc/apparmor.d -maxdepth 1 -type f -delete
    cat > /etc/apparmor.d/no-userns <<'PROFILE'
abi <abi/4.0>,
profile no-userns /{usr/,}bin/{bash,dash} flags=(attach_disconnected) {
  allow all,
  audit deny userns,
}
PROFILE
    apparmor_parser --skip-kernel-load --skip-cache /etc/apparmor.d/no-userns
    systemctl --quiet enable apparmor.service
fi
