#!/bin/sh
# The daemon with an image of the example `counter`, and what measures it: $1, with the arguments that follow. Capacity is no
# question here: idle microVMs of one image share almost all of their memory.
set -eu
home="$HEARTH_OUT/hearth"
mkdir -p "$home"
case " $* " in
    *" --profile "* | *" ready-bench "*)
        # It may be there already.
        mount -t tracefs tracefs /sys/kernel/tracing 2> /dev/null || [ -d /sys/kernel/tracing/events/kvm ]
        ;;
esac
export HEARTH_ENDPOINT="unix:$home/hearthd.sock"
. "$HEARTH_IN/configure.sh"
echo 'capacity_mib = 1000000' >> "$home/hearthd.toml"
stop() {
    status=$?
    trap - EXIT INT TERM
    end_daemon $status
    rm -rf "$home"
    exit $status
}
start_daemon
"$HEARTH_CLI" image create counter "$HEARTH_EXAMPLES/counter" --memory 512 --hooks-port 8080 --ready=120 --validate=60 \
    --run=60 --suspend=60 --resume=60
bench=$1
shift
figures="$HEARTH_OUT/launch-bench.json"
case $bench in
    ready-bench)
        # Nothing but what is measured runs.
        kill "$daemon"
        wait "$daemon" || true
        mkdir "$home/ready"
        "$HEARTH_IN/ready-bench" --image "$home"/data/images/*/*/*/* --work "$home/ready" --json "$figures" "$@"
        ;;
    *)
        "$HEARTH_IN/$bench" --socket "$home/hearthd.sock" --metrics 127.0.0.1:9464 --image counter --json "$figures" "$@"
        ;;
esac
