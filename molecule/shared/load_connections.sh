#!/bin/sh
# Start the daemon as its unit does, as its own user with one capability, and let it load what the role has laid down.
set -eu
mkdir -m 0700 /run/ipsec
chown ipsec:ipsec /run/ipsec
as_daemon() {
    setpriv --reuid=ipsec --regid=ipsec --clear-groups --no-new-privs --inh-caps=-all,+net_admin \
        --ambient-caps=-all,+net_admin --bounding-set=-all,+net_admin "$@"
}
as_daemon charon-systemd >/run/charon.log 2>&1 &
trap 'kill $!' EXIT
for _ in $(seq 100); do
    [ ! -S /run/ipsec/charon.vici ] || break
    sleep 0.1
done
as_daemon swanctl --load-all --noprompt
as_daemon swanctl --list-conns
