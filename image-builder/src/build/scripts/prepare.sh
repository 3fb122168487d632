# Makes the builder ready: its storage on the scratch disk /dev/vdb, the container bases of /dev/vdc at /hearth.
set -eu
mkdir -p /run/disks
mount -t devtmpfs devtmpfs /run/disks
if mount -o noinit_itable /run/disks/vdb /var/lib/hearth 2>/dev/null; then
    # What an earlier build of this image left beside its layers.
    buildah rm --all >/dev/null 2>&1 || true
    rm -rf /var/lib/hearth/context
else
    # A new disk, or a cache that was left in no good state.
    mke2fs -q -F -t ext4 -m 0 -E assume_storage_prezeroed=1 -O ^has_journal /run/disks/vdb
    mount -o noinit_itable /run/disks/vdb /var/lib/hearth
fi
mount -t erofs -o ro /run/disks/vdc /hearth
mkdir -p /var/lib/hearth/context /var/lib/hearth/tmp
