# Prints what the container image says of itself.
set -eu
buildah inspect --type image --format '{{json .Docker}}' "$(cat /var/lib/hearth/image)"
