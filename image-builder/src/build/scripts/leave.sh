# Leaves the storage in a state that the next build can use.
set -eu
cd /
rm -rf /var/lib/hearth/context /var/lib/hearth/tmp /var/lib/hearth/image
# Layers that no build has used for long would grow without bound: the newest image's are kept when there is little room.
if [ "$(df --output=pcent /var/lib/hearth | tail -n 1 | tr -dc 0-9)" -gt 50 ]; then
    buildah prune --all --force >/dev/null 2>&1 || true
fi
for mount in $(awk '$2 ~ "^/var/lib/hearth/" { print $2 }' /proc/mounts | sort -r); do
    umount "$mount"
done
umount /var/lib/hearth
