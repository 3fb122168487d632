# Builds the Dockerfile in /var/lib/hearth/context, or takes the container image whose layout is there.
set -eu
export TMPDIR=/var/lib/hearth/tmp BUILDAH_ISOLATION=chroot
cd /var/lib/hearth/context
if [ "$1" = layout ]; then
    id=$(buildah pull --quiet oci:/var/lib/hearth/context)
    echo "$id" > /var/lib/hearth/image
    exit 0
fi
# Container bases come from the disk, without any registry; those that this Dockerfile names.
for folder in /hearth/*/*/*/; do
    base=${folder#/hearth/}
    base=${base%/}
    name=${base%/*}
    tag=${base##*/}
    if grep -qF "$name" Dockerfile && ! buildah inspect --type image "localhost/$name:$tag" >/dev/null 2>&1; then
        id=$(buildah pull --quiet "oci:$folder")
        buildah tag "$id" "localhost/$name:$tag" "localhost/$name:latest"
    fi
done
# The storage keeps layers between builds of one image; what a tag means is asked for again where a registry answers.
buildah build --layers --format docker --isolation chroot --network host --pull=newer \
    --iidfile /var/lib/hearth/image --file Dockerfile .
