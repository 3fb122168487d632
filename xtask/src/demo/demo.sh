#!/bin/sh
# The demo on the metal: a daemon is started, and its client builds an image and takes two microVMs of it through their lives.
# What is typed is shown, and how long it took by the metal's own clock.
set -eu
home="$HEARTH_OUT/hearth"
mkdir -p "$home"
export HEARTH_ENDPOINT="unix:$home/hearthd.sock"
table=

# Hundredths of a second since the metal has started.
now() {
    read -r uptime _ < /proc/uptime
    echo "${uptime%.*}${uptime#*.}"
}
title() {
    printf '\n── %s\n' "$1"
}
# What is done, and the words of the client's command line.
step() {
    what=$1
    shift
    title "$what"
    echo "\$ hearth $*"
    begun=$(now)
    "$HEARTH_CLI" "$@"
    took=$(($(now) - begun))
    table="$table$(printf '%6d.%02d s   %s' $((took / 100)) $((took % 100)) "$what")
"
}
# The same with a command of AWS's, which runs on the machine that has started the metal: standard input is a stream to there.
step_outside() {
    what=$1
    shift
    title "$what"
    echo "\$ $*"
    begun=$(now)
    answered=
    echo "$*" >&0
    while IFS= read -r line; do
        case $line in
            '| '*) echo "${line#| }" ;;
            '= 0') answered=yes && break ;;
            *) break ;;
        esac
    done
    [ -n "$answered" ] || exit 1
    took=$(($(now) - begun))
    table="$table$(printf '%6d.%02d s   %s' $((took / 100)) $((took % 100)) "$what")
"
}
# The id of the newest microVM.
newest() {
    "$HEARTH_CLI" --quiet ps --limit 1
}

. "$HEARTH_IN/configure.sh"
start_daemon

step 'the host' host
step 'an image of a Dockerfile and a program' image create counter "$HEARTH_EXAMPLES/counter" --memory 512 \
    --hooks-port 8080 --ready=120 --validate=60 --run=60 --suspend=60 --resume=60
step 'a microVM of it' run counter --payload 'the first' --log-group /demo --log-stream first \
    --ingress HTTP_INGRESS --ingress SHELL_INGRESS --suspend-after 1h
first=$(newest)
step 'another one' run counter --payload 'the second' --log-group /demo --log-stream second
second=$(newest)
step 'both run' ps
step 'a request to the first, with token and certificate' curl "$first/" -sS
step 'the first is suspended: no process, no memory' suspend --wait "$first"
step 'one of them is suspended' ps
step 'it goes on' resume --wait "$first"
step 'its program has counted on: nothing was lost' logs --group /demo --stream first
step 'the other one has not noticed' logs --group /demo --stream second
step 'the first is suspended again' suspend --wait "$first"
step 'a plain request wakes it, and it counts on' curl "$first/" -sS
step 'a command beside its program' shell "$first" -- /counter ask /
step_outside "AWS's own command line, from outside" aws logs filter-log-events --log-group-name /demo \
    --log-stream-names first --query events[].message
step_outside 'it sees both' aws lambda-microvms list-microvms --output table
if [ -e "$HEARTH_IN/keep" ]; then
    step 'the second is terminated' rm --wait "$second"
else
    step 'both are terminated' rm --wait "$first" "$second"
fi
step 'they are remembered for a day' ps --all

title 'how long each step took on the metal'
printf '%s' "$table"
if [ -e "$HEARTH_IN/keep" ]; then
    cat "$HEARTH_IN/keep"
    wait "$daemon"
fi
