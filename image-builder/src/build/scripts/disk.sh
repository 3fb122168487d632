# Writes the container's files to the root disk /dev/vdd, and prints how many bytes they are, after lines for the log.
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
# What may hold an OpenSSL: its library, also those of Python packages, and programs that it is linked into.
find "$root" -xdev -type f \( -name 'libcrypto*.so*' -o -name node -o -name 'python3*' -o -name 'libpython3*.so*' -o -name '_rust*.so' \) \
    -print0 | perl /run/openssl.pl "$root" "$(ls /run/openssl.so 2>/dev/null || true)" "$2" 2>/run/openssl.log ||
    echo "warning: clones of this image may draw the same random numbers: its OpenSSL was not changed, $(tail -n 1 /run/openssl.log)"
# Files keep their own times; when they came into this builder nobody needs to know. A file with several names counts once.
found=$(find "$root" -printf '%Ts %b %n %D:%i\n' | awk '
    $1 > newest { newest = $1 }
    $3 == 1 || !seen[$4]++ { blocks += $2 }
    END { printf "%.0f %.0f", newest, blocks * 512 }')
export SOURCE_DATE_EPOCH="${found% *}"
if ! mke2fs -q -F -t ext4 -b 4096 -I 256 -i 16384 -m 0 -U "$1" -L hearth-root \
    -E "assume_storage_prezeroed=1,lazy_itable_init=0,lazy_journal_init=0,hash_seed=$1,root_owner=0:0" \
    -d "$root" /run/disks/vdd 2>/run/mke2fs.log; then
    cat /run/mke2fs.log >&2
    grep -qiE 'could not allocate|no space left|no free space' /run/mke2fs.log && exit 28
    exit 1
fi
echo "${found#* }"
