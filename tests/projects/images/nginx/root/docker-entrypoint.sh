#!/bin/sh
# Runs what is in /docker-entrypoint.d before the server, and then the command.
set -e
case "$1" in
    nginx | nginx-debug)
        for step in /docker-entrypoint.d/*.sh; do
            [ ! -x "$step" ] || "$step"
        done
        ;;
esac
exec "$@"
