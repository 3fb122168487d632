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
"$HEARTH_HOSTD" --config "$home/hearthd.toml" > "$home/hearthd.log" 2>&1 &
daemon=$!
stop() {
    status=$?
    trap - EXIT INT TERM
    [ $status -eq 0 ] || tail -n 40 "$home/hearthd.log"
    kill "$daemon" 2> /dev/null || true
    wait "$daemon" || true
    rm -rf "$home"
    exit $status
}
trap stop EXIT INT TERM
tries=0
until "$HEARTH_CLI" host > /dev/null 2>&1; do
    kill -0 "$daemon" 2> /dev/null || exit 1
    tries=$((tries + 1))
    [ $tries -lt 300 ] || exit 1
    sleep 0.1
done
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
