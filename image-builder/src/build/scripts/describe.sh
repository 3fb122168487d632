# Prints what the container image says of itself.
set -eu
buildah inspect --type image "$(cat /var/lib/hearth/image)"
