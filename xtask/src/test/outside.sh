#!/bin/sh
# A daemon on the metal for clients on another machine. Standard input is a stream to there: it gets the authority of the endpoints'
# certificates and the word "ready", and says how the clients have fared.
set -eu
home="$HEARTH_OUT/hearth"
mkdir -p "$home"
export HEARTH_ENDPOINT="unix:$home/hearthd.sock"
. "$HEARTH_IN/configure.sh"
start_daemon
{
    "$HEARTH_CLI" ca
    echo ready
} >&0
read -r verdict
[ "$verdict" = passed ]
