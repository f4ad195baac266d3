# $1: how many of this package are left, 0 after the removal. What the daemon knew stays in /var/lib/virtsnap.
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
    if [ "$1" -ge 1 ]; then
        # The new one; the old one ends what it is at first.
        systemctl try-restart virtsnapd.service || :
    fi
fi
