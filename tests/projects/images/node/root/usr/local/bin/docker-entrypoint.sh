#!/bin/sh
# What is an option or no program is meant for node.
set -e
if [ "${1#-}" != "$1" ] || ! command -v "$1" > /dev/null; then
    set -- node "$@"
fi
exec "$@"
