# Makes the builder ready: dockerd with its folder on the scratch disk /dev/vdb, and the container bases of /dev/vdc in it. Its argument is
# the hosts.toml of Docker Hub, empty where no mirror is asked first.
set -eu
mkdir -p /run/disks
mount -t devtmpfs devtmpfs /run/disks
if mount -o noatime,noinit_itable /run/disks/vdb /var/lib/hearth 2>/dev/null; then
    # What an earlier build of this image left beside its layers.
    rm -rf /var/lib/hearth/context /var/lib/hearth/tmp /var/lib/hearth/image
else
    # A new disk, or a cache that was left in no good state.
    mke2fs -q -F -t ext4 -m 0 -E assume_storage_prezeroed=1 -O ^has_journal /run/disks/vdb
    mount -o noatime,noinit_itable /run/disks/vdb /var/lib/hearth
fi
# A request to a disk costs the same whether it is small or large, and bases have thousands of small files. Through a loop device they
# are read from the disk's pages, which come ahead in large requests.
bases=/run/disks/vdc
blockdev --setra 2048 $bases || true
if losetup --read-only /run/disks/loop0 $bases; then bases=/run/disks/loop0; fi
mount -t erofs -o ro $bases /hearth
images=/var/lib/hearth/docker/image layers=/var/lib/hearth/docker/overlay2
mkdir -p /var/lib/hearth/context /var/lib/hearth/tmp $images $layers/l
# dockerd would mount its folder over itself, and hide what is mounted below, unless it is a shared mount.
mount --bind /var/lib/hearth/docker /var/lib/hearth/docker
mount --make-shared /var/lib/hearth/docker
# Names and descriptions of the bases are copied, their files stay where they are.
cp -R /hearth/image/. $images
for link in /hearth/overlay2/*/link; do
    layer=${link%/link} layer=${layer##*/}
    mkdir -p "$layers/$layer/diff"
    cp "$link" "$layers/$layer/link"
    ln -sfn "../$layer/diff" "$layers/l/$(cat "$link")"
    mount --bind "/hearth/overlay2/$layer/diff" "$layers/$layer/diff"
done
# BuildKit reads it for each image.
if [ -n "$1" ]; then
    mkdir -p /etc/docker/certs.d/docker.io
    printf %s "$1" > /etc/docker/certs.d/docker.io/hosts.toml
fi
# dockerd gives a containerd that it starts itself 15 seconds, which a busy host can take longer. It needs next to nothing of it.
cat > /run/containerd.toml << 'END'
version = 3
root = "/var/lib/hearth/docker/containerd"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri",
  "io.containerd.image-verifier.v1.bindir", "io.containerd.internal.v1.opt", "io.containerd.internal.v1.tracing",
  "io.containerd.nri.v1.nri", "io.containerd.podsandbox.controller.v1.cri", "io.containerd.snapshotter.v1.blockfile",
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.erofs",
  "io.containerd.snapshotter.v1.overlayfs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.tracing.processor.v1.otlp",
]
[grpc]
address = "/run/containerd/containerd.sock"
[debug]
level = "warn"
END
setsid containerd --config /run/containerd.toml > /run/containerd.log 2>&1 < /dev/null &
echo $! > /run/containerd.pid
# No line of a step is left out, however many it writes.
BUILDKIT_STEP_LOG_MAX_SIZE=-1 BUILDKIT_STEP_LOG_MAX_SPEED=-1 setsid /bin/bash -c '
    for _ in {1..1200}; do [ -S /run/containerd/containerd.sock ] && break; sleep 0.1; done
    exec dockerd --host unix:///run/docker.sock --containerd /run/containerd/containerd.sock' > /run/dockerd.log 2>&1 < /dev/null &
echo $! > /run/dockerd.pid
