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
# A request to a disk costs the same whether it is small or large, and bases have thousands of small files. Through a loop device they
# are read from the disk's pages, which come ahead in large requests.
bases=/run/disks/vdc
blockdev --setra 2048 $bases || true
if losetup --read-only /run/disks/loop0 $bases; then bases=/run/disks/loop0; fi
mount -t erofs -o ro $bases /hearth
mkdir -p /var/lib/hearth/context /var/lib/hearth/tmp
