# $1: how many of this package are left, 0 after the removal. What the daemon knew stays in /var/lib/virtsnap.
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
    if [ "$1" -ge 1 ]; then
        # The new one; the old one ends what it is at first.
        systemctl try-restart virtsnapd.service || :
    fi
fi
if [ "$1" = 0 ]; then
    # What virtsnap-apparmor answered, for nobody any more.
    rm -rf /run/virtsnap-apparmor
    # cargo-generate-rpm lists no directories, so that rpm leaves them. With something of an administrator's they stay.
    for empty in /etc/virtsnap/policies.d /etc/virtsnap /usr/share/licenses/virtsnap /usr/share/doc/virtsnap/examples \
        /usr/share/doc/virtsnap; do
        rmdir "$empty" 2>/dev/null || :
    done
fi
