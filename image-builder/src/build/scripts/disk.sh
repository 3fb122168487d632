# Writes the container's files to the root disk /dev/vdd, and prints how many bytes they are.
#
# The file system is the same for the same files: its identifier and hash seed are given, and no time in it is later than the latest
# of the files (SOURCE_DATE_EPOCH).
set -eu
old=315532800 # 1980
# The image's layers, the uppermost first, below a layer for the folders that may be missing. Their short names fit into a page.
tmp=/var/lib/hearth/tmp
mkdir -p $tmp/upper $tmp/work $tmp/none $tmp/root
lower='' top=''
for layer in $(cat $tmp/layers); do
    top=${top:-$layer}
    lower=${lower}l/$(cat "${layer%/diff}/link"):
done
# The root folder is that of the uppermost layer.
touch -d @$old $tmp/none
top=${top:-$tmp/none}
chmod --reference="$top" $tmp/upper
chown --reference="$top" $tmp/upper
touch --reference="$top" $tmp/upper
cd /var/lib/hearth/docker/overlay2
# The newer system call takes no more than 256 bytes of folders.
LIBMOUNT_FORCE_MOUNT2=always mount -t overlay -o "lowerdir=$lower$tmp/none,upperdir=$tmp/upper,workdir=$tmp/work" overlay $tmp/root
root=$tmp/root
for folder in dev proc sys tmp etc; do
    [ -e "$root/$folder" ] || [ -L "$root/$folder" ] || {
        mkdir "$root/$folder"
        touch -d @$old "$root/$folder" "$root"
    }
done
# Files keep their own times; when they came into this builder nobody needs to know.
SOURCE_DATE_EPOCH=$(find "$root" -printf '%Ts\n' | awk '$1 > newest { newest = $1 } END { print newest + 0 }')
export SOURCE_DATE_EPOCH
if ! mke2fs -q -F -t ext4 -b 4096 -I 256 -i 32768 -m 0 -U "$1" -L hearth-root \
    -E "assume_storage_prezeroed=1,lazy_itable_init=0,lazy_journal_init=0,hash_seed=$1,root_owner=0:0" \
    -d "$root" /run/disks/vdd 2>/run/mke2fs.log; then
    cat /run/mke2fs.log >&2
    grep -qiE 'could not allocate|no space left|no free space' /run/mke2fs.log && exit 28
    exit 1
fi
du -s -B1 "$root" | cut -f1
