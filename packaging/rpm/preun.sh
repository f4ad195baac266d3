# $1: how many of this package are left after this, 0 at the removal.
if [ "$1" = 0 ]; then
    if [ -d /run/systemd/system ]; then
        systemctl --no-reload disable --now virtsnapd.service || :
        # Only now: until the daemon has stopped, it may want a guest thawed.
        systemctl stop virtsnap-thaw.socket virtsnap-thaw.service || :
    fi
    # What virtsnap-apparmor wrote. A VM that runs keeps what is loaded until it stops.
    for profile in /etc/apparmor.d/libvirt/libvirt-*; do
        if grep -qs '# virtsnap$' "$profile"; then
            sed -i '/# virtsnap$/d' "$profile"
        fi
    done
fi
