# Builds the Dockerfile in /var/lib/hearth/context, or takes the container image whose layout is there.
set -eu
export TMPDIR=/var/lib/hearth/tmp BUILDAH_ISOLATION=chroot
cd /var/lib/hearth/context
if [ "$1" = layout ]; then
    id=$(buildah pull --quiet oci:/var/lib/hearth/context)
    echo "$id" > /var/lib/hearth/image
    exit 0
fi
# The storage keeps layers between builds of one image; what a tag means is asked for again where a registry answers.
buildah build --layers --format docker --isolation chroot --network host --pull=newer \
    --iidfile /var/lib/hearth/image --file Dockerfile .
