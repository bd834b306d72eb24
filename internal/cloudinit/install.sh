# Installs netbootd from the seed and starts it. Runs at every boot, changes
# only what differs, so that a newer seed is taken over by a reboot.
seed=/run/pxelab-seed
changed=
put() {
  if ! cmp -s "$seed/$2" "$3"; then
    install -D -m "$1" "$seed/$2" "$3.new" && mv -f "$3.new" "$3" && changed=1
  fi
}
mkdir -p "$seed"
mount -o ro -L cidata "$seed" || mount -o ro -L CIDATA "$seed"
if [ -e "$seed/netbootd" ]; then
  install -d -m 0700 /etc/netbootd
  put 0755 netbootd /usr/local/sbin/netbootd
  put 0644 netbootd.service /etc/systemd/system/netbootd.service
  put 0600 ca.crt /etc/netbootd/ca.crt
  put 0600 server.crt /etc/netbootd/server.crt
  put 0600 server.key /etc/netbootd/server.key
  umount "$seed"
  wants=/etc/systemd/system/multi-user.target.wants
  if [ ! -L "$wants/netbootd.service" ]; then
    # The first boot. The link starts netbootd before cloud-init from the next
    # boot on; systemd reads the new unit without a reload, which is slow.
    mkdir -p "$wants"
    ln -sf /etc/systemd/system/netbootd.service "$wants/netbootd.service"
    # What would take the guest's only core at the wrong time.
    for unit in apt-daily.timer apt-daily-upgrade.timer man-db.timer motd-news.timer \
      unattended-upgrades.service snapd.seeded.service snapd.service snapd.socket; do
      ln -sf /dev/null "/etc/systemd/system/$unit"
    done
  elif [ -n "$changed" ]; then
    systemctl daemon-reload
    systemctl --no-block restart netbootd.service
  fi
else
  echo "pxelab: no seed labelled cidata with netbootd on it" >&2
fi
systemctl --no-block start netbootd.service
