#!/bin/sh
# Let keepalived judge what the role has laid down. A tree without the package takes that of the SDK.
set -eu
sdk=/run/vauban/sdk
for file in usr/sbin/keepalived usr/lib/systemd/system/keepalived.service etc/keepalived/keepalived.config-opts; do
    [ -e "/$file" ] || cp "$sdk/$file" "/$file"
done
LD_LIBRARY_PATH=$sdk/usr/lib/x86_64-linux-gnu \
    keepalived --config-test --vrrp --use-file=/etc/keepalived/keepalived.conf 2>&1
