#!/bin/sh
# Makes a golden input on the metal: a daemon builds an image, runs a microVM of it, suspends it and stops. Its data folder and its
# monitor become an archive. The clock is set to the year 2100 before, since the life of a microVM is counted from its launch and
# must not have ended when a later release resumes it.
set -eu
home="$HEARTH_OUT/hearth"
mkdir -p "$home"
export HEARTH_ENDPOINT="unix:$home/hearthd.sock"
date -u -s @4102444800
. "$HEARTH_IN/configure.sh"
start_daemon
"$HEARTH_CLI" image create counter "$HEARTH_EXAMPLES/counter" --memory 512 --hooks-port 8080 --ready=120 --validate=60 \
    --run=60 --suspend=60 --resume=60 --tag kept=yes
"$HEARTH_CLI" run counter --payload golden --log-group /golden --log-stream one --ingress HTTP_INGRESS
id=$("$HEARTH_CLI" --quiet ps --limit 1)
"$HEARTH_CLI" curl "$id/" -sS
"$HEARTH_CLI" suspend --wait "$id"
kill "$daemon"
wait "$daemon"
trap - EXIT INT TERM

# What the image was built from and with is no part of it.
rm -rf "$home/data/work" "$home/data/buckets"
mkdir "$home/golden"
mv "$home/data" "$home/golden/data"
cp "$HEARTH_VMM" "$home/golden/hearth-vmm"
# Dash runs the program on the search path, busybox's shell its own, which knows no sparse files.
dash -c 'exec tar "$@"' tar --create --sparse --sort=name \
    --file "$HEARTH_OUT/golden.tar" -C "$home/golden" data hearth-vmm
