# Writes the container's files to the root disk /dev/vdd, and prints how many bytes they are.
#
# The file system is the same for the same files: its identifier and hash seed are given, times are those of the files or
# older than 1980 (SOURCE_DATE_EPOCH).
set -eu
image=$(cat /var/lib/hearth/image)
if [ "$2" = onbuild ]; then
    # `buildah from` would run what the image has for those that build on it. A copy of its files has no such orders.
    mkdir -p /var/lib/hearth/tmp/flat
    cd /var/lib/hearth/tmp/flat
    printf 'FROM scratch\nCOPY --from=%s / /\n' "$image" > Dockerfile
    TMPDIR=/var/lib/hearth/tmp buildah build --quiet --isolation chroot --layers=false --iidfile ../flat-image . >/dev/null
    image=$(cat ../flat-image)
fi
container=$(buildah from --pull-never "$image")
root=$(buildah mount "$container")
export SOURCE_DATE_EPOCH=315532800
for folder in dev proc sys tmp etc; do
    [ -e "$root/$folder" ] || [ -L "$root/$folder" ] || {
        mkdir "$root/$folder"
        touch -d @$SOURCE_DATE_EPOCH "$root/$folder" "$root"
    }
done
if ! mke2fs -q -F -t ext4 -b 4096 -I 256 -i 32768 -m 0 -U "$1" -L hearth-root \
    -E "assume_storage_prezeroed=1,lazy_itable_init=0,lazy_journal_init=0,hash_seed=$1,root_owner=0:0" \
    -d "$root" /run/disks/vdd 2>/run/mke2fs.log; then
    cat /run/mke2fs.log >&2
    grep -qiE 'could not allocate|no space left|no free space' /run/mke2fs.log && exit 28
    exit 1
fi
du -s -B1 "$root" | cut -f1
