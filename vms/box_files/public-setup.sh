#!/bin/sh
# Make a box that others publish into a guest, once it is up:  public-setup.sh KEY USER...
# Runs as root through vagrant's login, with make-users.sh beside it. Changes nothing that a test may judge.
set -eu
key=$1
shift

for user; do
    id "$user" >/dev/null 2>&1 || /bin/sh "${0%/*}/make-users.sh" "$user"
done
for user in root "$@"; do
    # A shadow entry of ! is a locked account to sshd; * has no password and may log in.
    [ "$user" = asker ] || usermod --password '*' "$user"
    ssh_directory=$(getent passwd "$user" | cut -d: -f6)/.ssh
    install -d -m 0700 -o "$user" -g "$(id -g "$user")" "$ssh_directory"
    printf '%s\n' "$key" > "$ssh_directory/authorized_keys"
    chmod 0600 "$ssh_directory/authorized_keys"
    chown "$user" "$ssh_directory/authorized_keys"
    if command -v restorecon >/dev/null; then restorecon -R "$ssh_directory"; fi
done
# The first of such lines counts, hence the name.
cat > /etc/ssh/sshd_config.d/00-guest.conf <<'CONF'
PermitRootLogin prohibit-password
UseDNS no
MaxSessions 100
MaxStartups 100
CONF
systemctl try-reload-or-restart ssh.service sshd.service 2>/dev/null || systemctl restart sshd.service

# The card that is there for Vagrant only is also a way out; ssh comes in by the other.
for card in /sys/class/net/*; do
    if [ "$(cat "$card/address")" = 52:54:00:1d:00:01 ]; then ip link set "${card##*/}" down; fi
done
