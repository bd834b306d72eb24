# Installs netbootd from the seed and starts it. Runs at every boot and replaces
# only changed files, so that a reboot applies a newer seed.
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
    # First boot. The link makes later boots start netbootd before cloud-init.
    # systemd finds a new unit without a daemon-reload, which is slow.
    mkdir -p "$wants"
    ln -sf /etc/systemd/system/netbootd.service "$wants/netbootd.service"
    # Mask units that would compete with netbootd for the guest's only core.
    for unit in apt-daily.timer apt-daily-upgrade.timer man-db.timer motd-news.timer \
      unattended-upgrades.service snapd.seeded.service snapd.service snapd.socket; do
      ln -sf /dev/null "/etc/systemd/system/$unit"
    done
  elif [ -n "$changed" ]; then
    systemctl daemon-reload
    systemctl --no-block restart netbootd.service
  fi
else
  echo "pxelab: no file system labelled cidata contains netbootd" >&2
fi
systemctl --no-block start netbootd.service
